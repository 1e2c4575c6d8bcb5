"""oneDNN's kernels in place of PyTorch's choice: the same numbers, and out of the way where they do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from zoo import TINY

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig
from edgetam_pl.inference.onednn import OneDnnConv, OneDnnLinear, OneDnnWeightedSum, use_onednn
from edgetam_pl.model.attention import Attention, WeightedSum
from edgetam_pl.types import EMPTY_RECALL, Recall

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

SMALL = replace(TINY, image_size=512, compressor=CompressorConfig(global_latents=16, spatial_latents=16))


def gradients(model: nn.Module, x: Tensor, slope: Tensor) -> list[Tensor]:
    """The answer, and the gradients of the input and of every parameter."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], slope)]


@pytest.mark.parametrize("shape", [(1, 1024, 24), (2, 2048, 24), (1, 32, 32, 24), (1, 7, 24), (3, 1000, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_the_same(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=bias))
    x = torch.randn(shape)
    expected = model(x)
    assert use_onednn(model)
    assert type(model[0]) is OneDnnLinear
    assert list(model.state_dict()) == (["0.weight", "0.bias"] if bias else ["0.weight"])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "width", "out"), [(1024, 96, 80), (4096, 16, 32), (3, 64, 64)])
@pytest.mark.parametrize("strided", [False, True])
def test_gradients_of_a_linear_layer_are_the_same(rows: int, width: int, out: int, strided: bool) -> None:
    """Large enough for oneDNN; narrow, where one of the three products is not; too small for it."""
    torch.manual_seed(0)
    layer, ours = nn.Linear(width, out), nn.Sequential(nn.Linear(width, out))
    ours[0].load_state_dict(layer.state_dict())
    use_onednn(ours, trained=True)
    x = torch.randn(2, width, rows).transpose(1, 2) if strided else torch.randn(2, rows, width)
    slope = torch.randn(2, rows, out)
    found = gradients(ours, x, slope)
    for name, (a, b) in enumerate(zip(gradients(layer, x, slope), found, strict=True)):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_convolution_are_the_same(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer, ours = nn.Conv2d(64, 96, 1), nn.Sequential(nn.Conv2d(64, 96, 1))
    ours[0].load_state_dict(layer.state_dict())
    use_onednn(ours, trained=True)
    x, slope = torch.randn(2, 64, 16, 24).contiguous(memory_format=layout), torch.randn(2, 96, 16, 24)
    for a, b in zip(gradients(layer, x, slope), gradients(ours, x, slope), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_a_layer_frozen_in_part_asks_for_no_other_gradient() -> None:
    model = nn.Sequential(nn.Linear(96, 80))
    use_onednn(model, trained=True)
    model[0].weight.requires_grad_(False)
    model(torch.randn(1024, 96)).sum().backward()
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None


def test_a_converter_sees_plain_layers() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Flatten(2), nn.Linear(1024, 64))
    use_onednn(model, trained=True)
    traced = torch.jit.trace(model, torch.randn(1, 64, 32, 32))
    assert "aten::linear" in str(traced.inlined_graph)  # type: ignore[union-attr]
    program = torch.export.export(model, (torch.randn(1, 64, 32, 32),))
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert used == {"aten.conv2d.default", "aten.flatten.using_ints", "aten.linear.default"}


def test_only_plain_1x1_convolutions_are_exchanged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1, groups=16), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 8, 1, stride=2)
    )
    x = torch.randn(1, 8, 20, 20)
    expected = model(x)
    use_onednn(model)
    assert [type(layer) is OneDnnConv for layer in model] == [True, False, False, False]
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(model(x.contiguous(memory_format=layout)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_gives_the_same(rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 1, 1024, 32).expand(rows, -1, -1, -1)  # one image, shared by all objects
    k, v = torch.randn(rows, 1, 300, 32), torch.randn(rows, 1, 300, 32)
    bias = torch.randn(rows, 1, 1, 300) if biased else None
    expected = WeightedSum()(q, k, v, bias)
    torch.testing.assert_close(OneDnnWeightedSum()(q, k, v, bias), expected, rtol=1e-5, atol=1e-5)


def test_attention_in_bfloat16_is_no_less_exact() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, rows, 32).bfloat16() for rows in (1024, 300, 300))
    exact = WeightedSum()(q.double(), k.double(), v.double())
    usual, ours = WeightedSum()(q, k, v), OneDnnWeightedSum()(q, k, v)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() <= 1.01 * (usual - exact).abs().mean()


def test_attention_that_is_trained_is_left_alone() -> None:
    model = nn.ModuleList([Attention(16, inner=16, key_dim=16)])
    use_onednn(model, trained=True)
    assert type(model[0].weigh) is WeightedSum  # type: ignore[union-attr]
    assert type(model[0].q_proj) is OneDnnLinear  # type: ignore[union-attr]


def test_attention_of_several_heads_is_left_alone() -> None:
    model = nn.ModuleList([Attention(16, inner=16, key_dim=16, heads=2), Attention(16, inner=16, key_dim=16)])
    use_onednn(model)
    assert [type(layer.weigh) is OneDnnWeightedSum for layer in model] == [False, True]  # type: ignore[union-attr]


def test_a_whole_model_gives_the_same() -> None:
    torch.manual_seed(0)
    model = build_model(replace(SMALL)).eval().requires_grad_(False)
    image = torch.randn(1, 3, 512, 512)

    def answers() -> list[Tensor]:
        features = model.encode(image)
        first = model.decode(model.attend(features.f16, EMPTY_RECALL), features, None)
        memory = model.memorize(features.f16, first)
        f_m = model.attend(features.f16, Recall(((0, memory), (1, memory)), ((1, memory.pointer),)))
        return [features.f16, memory.tokens, f_m, model.decode(f_m, features, None, gate=False).logits]

    expected = answers()
    use_onednn(model)
    for found, wanted in zip(answers(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_under_autocast_pytorch_chooses() -> None:
    model = nn.Sequential(nn.Linear(24, 40))
    x = torch.randn(1, 1024, 24)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        use_onednn(model)
        assert model(x).dtype == torch.bfloat16
        assert torch.equal(model(x), expected)
