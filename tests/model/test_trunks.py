"""Trunks and necks: shapes, names, and what reaches which level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zoo import TINY, config, lively

from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.model.image_encoder import FPN, SingleLevel
from edgetam_pl.model.trunks import SAM3, TRUNKS, ChannelScale, Trunk, build_trunk
from edgetam_pl.model.vit import Block, DropPath, PlainViT
from edgetam_pl.types import Prompts, Recall
from edgetam_pl.weights import load_into, save_official

SMALL = {
    "repvit_m1": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
    "sam2_hiera_tiny": {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
    "vit_tiny": {"dim": 16, "heads": 2, "depth": 3},
}


@pytest.mark.parametrize("name", list(SMALL))
def test_a_trunk_makes_maps_of_strides_4_8_16_and_32(name: str) -> None:
    trunk = build_trunk(name, single=False, drop_path=0.0, args=SMALL[name]).eval()
    maps = trunk(torch.randn(2, 3, 64, 64))
    assert [tuple(x.shape) for x in maps] == [
        (2, width, 64 // stride, 64 // stride) for width, stride in zip(trunk.channels, (4, 8, 16, 32), strict=True)
    ]


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with torch.device("meta"):
        for name in TRUNKS:
            build_trunk(name, single=name == SAM3, drop_path=0.0, args={"image_size": 1008} if name == SAM3 else {})


def test_depthwise_1x1_convolutions_are_computed_as_scales() -> None:
    conv = nn.Conv2d(6, 6, 1, groups=6, bias=False)
    scale = ChannelScale(6, 6, 1, groups=6, bias=False)
    scale.load_state_dict(conv.state_dict())  # the same names and shapes
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(scale(x), conv(x))
    assert scale(x).is_contiguous()


def test_no_slow_depthwise_1x1_convolution_is_left_in_repvit() -> None:
    trunk = build_trunk("repvit_m1", single=False, drop_path=0.0, args=SMALL["repvit_m1"])
    kinds = [type(m) for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and m.kernel_size == (1, 1)]
    assert kinds
    assert set(kinds) == {ChannelScale}


def test_sizes_a_trunk_does_not_know_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"trunk_args \{'embed_dims': 3\} do not fit repvit_m1"):
        build_trunk("repvit_m1", single=False, drop_path=0.0, args={"embed_dims": 3})


def test_a_trunk_of_three_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit repvit_m1, which makes four maps"):
        build_trunk("repvit_m1", single=False, drop_path=0.0, args={"embed_dim": [8, 16, 24], "depth": [1, 1, 1]})


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "repvit_m0_9", "mobilenetv4_conv_small", "convnext_atto", "resnet18"]
)
def test_backbones_of_timm_make_the_four_maps(name: str) -> None:
    trunk = build_trunk(name, single=False, drop_path=0.0, args={}).eval()
    maps = trunk(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (width, 64 // stride, 64 // stride) for width, stride in zip(trunk.channels, (4, 8, 16, 32), strict=True)
    ]


TRAINED = ["tf_efficientnet_lite0", "repvit_m0_9", "mobilenetv4_conv_small", "fastvit_t8", "efficientvit_b0"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_tracker_on_a_backbone_of_timm_learns_from_a_step_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    cfg = replace(TINY, trunk=name, trunk_args={}, dropout=0.0)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    nn.init.constant_(model.mask_decoder.presence_head.layers[-1].bias, 10.0)  # what is absent has no gradient
    image, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1

    def loss() -> torch.Tensor:
        features = model.encode(image)
        prompts = Prompts(torch.full((2, 1, 2), 32.0), torch.ones(2, 1, dtype=torch.int64))
        decoded = model.decode(model.attend(features.f16, Recall((), ())), features, prompts)
        return nn.functional.binary_cross_entropy_with_logits(decoded.logits, mask.expand_as(decoded.logits))

    # one step down the gradient makes the loss smaller, and reaches the trunk's first layer
    before = loss()
    before.backward()
    first = next(iter(model.image_encoder.trunk.parameters()))
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    gradients = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in gradients if p.grad is not None]).norm()
    with torch.no_grad():
        for p in gradients:
            assert p.grad is not None
            p -= 0.01 * p.grad / norm
        assert loss() < before
        # what is written is what is read
        save_official(model, tmp_path / "weights.pt")
        again = load_into(build_model(cfg), tmp_path / "weights.pt").eval()
        assert torch.equal(again.encode(image).f16, model.eval().encode(image).f16)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "efficientvit_m0"])
def test_a_backbone_without_the_four_strides_is_refused_with_the_cure(name: str) -> None:
    with pytest.raises(ValueError, match=r"the neck needs 4, 8, 16 and 32.*Use a hierarchical one"):
        build_trunk(name, single=False, drop_path=0.0, args={})


def test_only_stride_16_hears_the_coarsest_level() -> None:
    torch.manual_seed(0)
    neck = FPN([4, 8, 12, 16], 16)
    maps = [torch.randn(1, width, 64 // s, 64 // s) for width, s in zip((4, 8, 12, 16), (4, 8, 16, 32), strict=True)]
    before = neck(maps)
    neck.lateral["s32"].weight.data.zero_()
    after = neck(maps)
    assert torch.equal(before.f4, after.f4)
    assert torch.equal(before.f8, after.f8)
    assert not torch.allclose(before.f16, after.f16)
    neck.lateral["s16"].weight.data.zero_()
    without = neck(maps)
    assert torch.equal(before.f4, without.f4)
    assert torch.equal(before.f8, without.f8)
    assert without.f16[0].flatten(1).std(dim=1).max() < 1e-6  # biases alone are left


def test_the_coarsest_level_is_repeated_not_interpolated() -> None:
    torch.manual_seed(0)
    neck = FPN([4, 8, 12, 16], 16)
    neck.lateral["s16"].weight.data.zero_()
    maps = [torch.randn(1, width, 64 // s, 64 // s) for width, s in zip((4, 8, 12, 16), (4, 8, 16, 32), strict=True)]
    coarse = neck(maps).f16[..., ::2, ::2]
    assert torch.equal(neck(maps).f16, coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_a_single_level_neck_has_no_fine_levels() -> None:
    features = SingleLevel(12, 16)([torch.randn(2, 12, 4, 4)])
    assert features.f4 is None
    assert features.f8 is None
    assert features.f16.shape == (2, 16, 4, 4)


def test_windows_of_a_plain_vit_see_themselves_alone() -> None:
    torch.manual_seed(0)
    block = Block(8, heads=2, window=4, drop_path=0.0).eval()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, 0, 0, 0] += 3.0
    moved = (block(changed) - block(x)).abs().amax(dim=(0, 3)) > 1e-7
    assert moved[:4, :4].all()
    assert not moved[4:].any()
    assert not moved[:, 4:].any()


def test_padding_of_windows_takes_part_in_attention() -> None:
    """As released: a 5 x 5 map in windows of 4 is padded with zeros that are attended to."""
    torch.manual_seed(0)
    block = Block(8, heads=2, window=4, drop_path=0.0).eval()
    x = torch.randn(1, 5, 5, 8)
    y = block.norm1(x)
    corner = torch.zeros(1, 4, 4, 8)
    corner[:, 0, 0] = y[:, 4, 4]
    expected = x[:, 4, 4] + block.attn(corner)[:, 0, 0]
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x)[:, 4, 4], expected)


def test_every_third_block_of_a_plain_vit_sees_everything() -> None:
    windows = [block.window for block in PlainViT(dim=8, heads=2).blocks]
    assert windows == [14, 14, 0] * 4


def test_stochastic_depth_drops_whole_images_in_training_only() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.5)
    x = torch.ones(64, 2, 2, 3)
    kept = drop(x).flatten(1)
    assert set(kept[:, 0].tolist()) == {0.0, 2.0}
    assert (kept == kept[:, :1]).all()
    drop.eval()
    assert torch.equal(drop(x), x)


def test_hiera_starts_with_empty_position_maps() -> None:
    trunk = build_trunk("sam2_hiera_tiny", single=False, drop_path=0.1, args=SMALL["sam2_hiera_tiny"])
    maps = [p for name, p in trunk.named_parameters() if "pos_embed" in name]
    assert len(maps) == 2
    assert all((p == 0).all() for p in maps)


def test_an_image_of_another_size_is_refused() -> None:
    model = build_model(config())
    with pytest.raises(ValueError, match=r"Images are \(1, 3, 64, 64\); this model takes \(B, 3, 128, 128\)"):
        model.encode(torch.zeros(1, 3, 64, 64))


def test_channel_scales_are_equal_inside_a_whole_trunk() -> None:
    torch.manual_seed(0)
    trunk = build_trunk("repvit_m1", single=False, drop_path=0.0, args=SMALL["repvit_m1"]).eval()
    lively(trunk)
    x = torch.randn(1, 3, 64, 64)
    ours = trunk(x)
    for module in trunk.modules():
        if isinstance(module, ChannelScale):
            module.forward = nn.Conv2d.forward.__get__(module)  # the slow way
    for a, b in zip(ours, trunk(x), strict=True):
        torch.testing.assert_close(a, b)


class _Averages(nn.Module):
    """The mean colour of squares of 4, 8, 16 and 32 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.paint = nn.Conv2d(3, width, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.paint(nn.functional.avg_pool2d(images, side)) for side in (4, 8, 16, 32)]


def _averages(name: str, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    return Trunk(_Averages(args["width"]), [args["width"]] * 4, name)


def test_a_trunk_is_added_by_its_function_and_a_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING, "add a trunk": an entry in TRUNKS, a file in configs/model."""
    monkeypatch.setitem(TRUNKS, "averages", _averages)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "coarse.yaml").write_text(
        "name: coarse\nimage_size: 64\ntrunk: averages\ntrunk_args: {width: 5}\ndim: 32\nmemory_dim: 16\n"
        "compressor: {global_latents: 4, spatial_latents: 4}\n"
    )
    model = build_model(model_config("coarse")).eval()
    images = torch.randn(2, 3, 64, 64)
    features = model.encode(images)
    assert features.f4 is not None
    assert (features.f4.shape, features.f16.shape) == ((2, 4, 16, 16), (2, 32, 4, 4))
    other = images.clone()
    other[:, :, :4, :4] += 1.0
    moved = (model.encode(other).f4 - features.f4).abs().amax(dim=(0, 1)) > 0  # type: ignore[operator]
    assert moved.nonzero().tolist() == [[0, 0]]
