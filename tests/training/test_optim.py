"""Parameter groups and schedules: the release's sets, and learning rates against closed forms."""

from __future__ import annotations

import doctest
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import CompressorConfig, ModelConfig, TrainConfig
from edgetam_pl.model.trunks import build_trunk
from edgetam_pl.training import optim
from edgetam_pl.training.optim import parameter_groups, schedule


class LayerNorm2d(nn.Module):
    """A layer norm over channels that is no torch.nn.LayerNorm: its weight is decayed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(2), nn.Linear(2, 2)


class Trunk(nn.Module):
    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(2))
        self.patch_embed = nn.Conv2d(3, 2, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))


class Encoder(nn.Module):
    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.trunk = Trunk(num_blocks)
        self.neck = nn.ModuleDict({"lateral": nn.Conv2d(2, 2, 1), "project_f4": nn.Conv2d(2, 2, 1)})


class Model(nn.Module):
    def __init__(self, num_blocks: int = 2) -> None:
        super().__init__()
        self.image_encoder = Encoder(num_blocks)
        self.memory_encoder = nn.Sequential(nn.BatchNorm2d(2), LayerNorm2d(), nn.LayerNorm(2))
        self.compressor = nn.ParameterDict({"global_latents": nn.Parameter(torch.zeros(2))})


def _by_name(model: nn.Module, **overrides: float) -> dict[str, tuple[float, float]]:
    """Parameter name -> (lr, weight decay)."""
    values = {"lr": 1.0, "encoder_lr": 0.1, "weight_decay": 0.5, "layer_decay": 1.0} | overrides
    groups = parameter_groups(model, **values)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = Model()
    model.image_encoder.trunk.requires_grad_(False)
    groups = parameter_groups(model, lr=1.0, encoder_lr=None, weight_decay=0.1, layer_decay=0.9)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len({group["name"] for group in groups}) == len(groups)


def test_trunk_and_neck_learn_at_the_encoders_rate_and_the_projections_do_not() -> None:
    found = _by_name(Model())
    assert found["image_encoder.trunk.blocks.0.fc.weight"][0] == 0.1
    assert found["image_encoder.neck.lateral.weight"][0] == 0.1
    assert found["image_encoder.neck.project_f4.weight"][0] == 1.0
    assert found["compressor.global_latents"][0] == 1.0


def test_without_a_rate_of_its_own_the_encoder_learns_like_the_rest() -> None:
    assert {lr for lr, _ in _by_name(Model(), encoder_lr=None).values()} == {1.0}  # type: ignore[arg-type]


def test_decay_spares_biases_and_layer_norms_and_nothing_else() -> None:
    spared = {name for name, (_, decay) in _by_name(Model()).items() if decay == 0}
    assert spared == {
        name
        for name, _ in Model().named_parameters()
        if "bias" in name or ".norm." in name or name == "memory_encoder.2.weight"
    }
    assert "memory_encoder.0.weight" not in spared, "BatchNorm gains are decayed"
    assert "memory_encoder.1.weight" not in spared, "2D layer norms are decayed"


def test_layer_decay_slows_the_trunk_from_its_last_block_to_its_patches() -> None:
    """training.md: block i of L learns at v^(L-i), patches at v^(L+1), position embeddings and neck at 1."""
    v, num_blocks = 0.5, 3
    found = {name: lr / 0.1 for name, (lr, _) in _by_name(Model(num_blocks), layer_decay=v).items()}
    for i in range(num_blocks):
        assert found[f"image_encoder.trunk.blocks.{i}.fc.weight"] == pytest.approx(v ** (num_blocks - i))
    assert found["image_encoder.trunk.patch_embed.weight"] == pytest.approx(v ** (num_blocks + 1))
    assert found["image_encoder.trunk.pos_embed"] == pytest.approx(1)
    assert found["image_encoder.neck.lateral.weight"] == pytest.approx(1)


def test_blocks_of_several_stages_are_counted_through() -> None:
    class Staged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 2, 2)
            for stage in range(2):
                body = nn.Module()
                body.downsample = nn.Conv2d(2, 2, 1)
                body.blocks = nn.ModuleList(Block() for _ in range(2))
                self.add_module(f"stages_{stage}", body)

    model = Model()
    model.image_encoder.trunk = Staged()  # type: ignore[assignment]
    found = {name: lr for name, (lr, _) in _by_name(model, encoder_lr=1.0, layer_decay=0.5).items()}
    assert found["image_encoder.trunk.stem.weight"] == 0.5**5
    assert found["image_encoder.trunk.stages_0.blocks.1.fc.weight"] == 0.5**3
    assert found["image_encoder.trunk.stages_1.downsample.weight"] == 0.5**2
    assert found["image_encoder.trunk.stages_1.blocks.0.fc.weight"] == 0.5**2
    assert found["image_encoder.trunk.stages_1.blocks.1.fc.weight"] == 0.5


def test_groups_of_edgetam_are_four_with_these_sizes() -> None:
    """Table 5: no layer decay. BatchNorm statistics are no parameters, no_memory_pos is in no computation."""
    groups = parameter_groups(build_model(ModelConfig()), lr=3e-4, encoder_lr=6e-5, weight_decay=0.1, layer_decay=1.0)
    sizes = {g["name"]: (g["lr"], g["weight_decay"], len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups}
    assert sizes == {
        "encoder": (6e-5, 0.1, 236, 4_872_192),
        "encoder.no_decay": (6e-5, 0.0, 130, 26_864),
        "rest": (3e-4, 0.1, 139, 8_958_956),
        "rest.no_decay": (3e-4, 0.0, 157, 37_526),
    }
    assert sum(size for *_, size in sizes.values()) == 13_895_794 - 256  # all parameters but no_memory_pos


def test_groups_of_sam_2_b_plus_decay_through_its_24_blocks() -> None:
    cfg = ModelConfig(trunk="sam2_hiera_base_plus", memory_blocks=4, compressor=CompressorConfig(kind="none"))
    found = _by_name(build_model(cfg), encoder_lr=1.0, layer_decay=0.9)
    body = "image_encoder.trunk.body.model"
    assert found[f"{body}.patch_embed.proj.weight"][0] == pytest.approx(0.9**25)
    assert found[f"{body}.blocks.0.attn.qkv.weight"][0] == pytest.approx(0.9**24)
    assert found[f"{body}.blocks.23.mlp.fc1.weight"][0] == pytest.approx(0.9)
    assert found[f"{body}.pos_embed"] == (1.0, 0.5)
    assert found[f"{body}.pos_embed_window"] == (1.0, 0.5)
    assert found["image_encoder.neck.lateral.s16.weight"][0] == 1.0
    assert found[f"{body}.blocks.3.norm1.weight"][1] == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [({"lr": 0.0}, "lr is 0"), ({"layer_decay": 0.0}, "layer_decay is 0"), ({"layer_decay": 1.5}, "1.5")],
)
def test_rates_that_train_nothing_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _by_name(Model(), **values)


def test_cosine_follows_table_5() -> None:
    """Stage 2: 130k steps, warm-up 15k."""
    factor = schedule("cosine", total_steps=130_000, warmup=15_000)
    assert factor(0) == 0
    assert factor(7_500) == 0.5
    assert factor(15_000) == 1
    assert factor(72_500) == pytest.approx(0.5)  # half way between warm-up and end
    assert factor(43_750) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factor(130_000) == 0


def test_cosine_without_warm_up_is_the_releases_fine_tuning() -> None:
    factor = schedule("cosine", total_steps=1000, end_factor=0.1)
    for step in (0, 250, 500, 999, 1000):
        assert factor(step) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * step / 1000)) / 2)


def test_reciprocal_square_root_follows_table_5() -> None:
    """Stage 1: 175k steps, warm-up 1k, timescale 1000, cool-down 5k."""
    factor = schedule("rsqrt", total_steps=175_000, warmup=1000, cooldown=5000, timescale=1000)
    assert factor(0) == 0
    assert factor(500) == 0.5
    assert factor(1000) == 1
    assert factor(100_000) == pytest.approx(math.sqrt(1000 / 100_000))
    assert factor(170_000) == pytest.approx(math.sqrt(1000 / 170_000))
    assert factor(172_500) == pytest.approx(math.sqrt(1000 / 172_500) / 2)
    assert factor(175_000) == 0


def test_reciprocal_square_root_is_continuous_when_timescale_and_warm_up_differ() -> None:
    factor = schedule("rsqrt", total_steps=10_000, warmup=100, timescale=400)
    assert factor(100) == 1
    assert factor(1300) == pytest.approx(math.sqrt(400 / 1600))


def test_constant_warms_up_and_cools_down() -> None:
    factor = schedule("constant", total_steps=100, warmup=10, cooldown=20)
    assert [factor(step) for step in (0, 5, 10, 80, 90, 100)] == [0, 0.5, 1, 1, 0.5, 0]


def test_a_schedule_is_added_by_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING, "add a schedule": one entry, and a configuration names it."""
    monkeypatch.setitem(optim.SCHEDULES, "halves", lambda step, steps: 0.5 ** (4 * step // steps.total))
    cfg = composed(TrainConfig, command="train", overrides=["stage=toy_video", "stage.optim.schedule=halves"])[0]
    phase = cfg.stage.phases[0]
    factor = optim.schedule_of(cfg.stage.optim, phase)
    assert [factor(share * phase.steps // 4) for share in range(5)] == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    with pytest.raises(ValueError, match="choose one of cosine, rsqrt, constant, halves"):
        schedule("halfs", total_steps=10)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_the_rate_never_rises_after_warm_up_and_holds_after_the_end(name: str) -> None:
    factor = schedule(name, total_steps=200, warmup=20)
    curve = [factor(step) for step in range(20, 203)]
    assert all(before >= after for before, after in pairwise(curve))
    assert curve[-1] == curve[-3]


def test_drop_path_skips_blocks_in_training_and_none_in_evaluation() -> None:
    """For those who train a SAM 2 (0.1 to 0.3 there, none for EdgeTAM): with the same seed the same blocks, then others."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
    trunk = build_trunk("sam2_hiera_tiny", single=False, drop_path=0.5, args=sizes)
    images = torch.randn(1, 3, 64, 64)

    def deepest(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return trunk(images)[-1]

    assert torch.equal(deepest(1), deepest(1))
    assert any(not torch.equal(deepest(1), deepest(seed)) for seed in range(2, 6))
    trunk.eval()
    assert torch.equal(deepest(1), deepest(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "linear", "total_steps": 10}, "linear"),
        ({"name": "cosine", "total_steps": 10, "warmup": 11}, "warmup=11 and cooldown=0 do not fit into 10 steps"),
        ({"name": "rsqrt", "total_steps": 10, "warmup": 6, "cooldown": 5}, "do not fit"),
        ({"name": "cosine", "total_steps": 0}, "0 steps"),
        ({"name": "cosine", "total_steps": 10, "cooldown": 5}, "cools down by itself"),
        ({"name": "rsqrt", "total_steps": 10, "timescale": 0}, "timescale=0"),
        ({"name": "cosine", "total_steps": 10, "end_factor": 2.0}, "end_factor=2"),
    ],
)
def test_impossible_schedules_are_refused(values: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**values)  # type: ignore[arg-type]


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(optim).failed == 0
