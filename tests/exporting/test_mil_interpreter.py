"""The interpreter computes what torch computes, for every operation it knows, from packages read back from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("coremltools")

from edgetam_pl.exporting import mil_interpreter
from edgetam_pl.exporting.coreml import CoreML, compress, convert_part
from edgetam_pl.exporting.mil_interpreter import OPERATIONS, Interpreter, UnknownOperation, load_program
from edgetam_pl.exporting.parts import Feature, Part, Saved


class Function(nn.Module):
    """A module around a plain function of tensors; `parts` holds whatever has weights."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(parts)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.function(*tensors, **dict(self.parts.items()))


def elementwise(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    positive = y.abs() + 0.5
    return (
        x + y, x - y, x * y, x / positive, torch.maximum(x, y), torch.minimum(x, y), positive.sqrt(), x.sin(), x.cos(),
        x.relu(), x.sigmoid(), F.gelu(x), x.clamp(-0.5, 0.75),
    )  # fmt: skip


def logic(x: Tensor, y: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    a, b = x > 0, y < 0
    return (
        (k == 2).float(), (k != 1).float(), (x >= y).float(), (x <= y).float(), torch.logical_and(a, b).float(),
        torch.logical_or(a, b).float(), torch.logical_not(a).float(), torch.where(a, x, y),
        k.float() * x, x.to(torch.int32), a.float(), b.float(),
    )  # fmt: skip


def shapes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    first, second = x.chunk(2, dim=1)
    small, rest = y.split([1, 3], dim=-1)
    return (
        torch.cat((x, y), dim=1), torch.stack((x, y), dim=1), first * 2 + second, small + 1, rest + 1,
        x.reshape(3, 8) + 0, x.unsqueeze(1) * 2, x.squeeze(0) * 2, x.permute(2, 0, 1) * 2, x.expand(2, -1, -1) * 1.5,
        x[:, 1:5:2] + 1, x[:, :, -2:] + 1, x[:, 3] + 1, F.pad(x, (1, 2, 0, 1)), F.pad(x, (1, 0), value=4.0),
    )  # fmt: skip


def images(x: Tensor, **parts: nn.Module) -> tuple[Tensor, ...]:
    return (
        *(parts[name](x) for name in ("plain", "strided", "dilated", "depthwise", "up", "norm")),
        parts["line"](x.flatten(2)), F.max_pool2d(x, 2, 2), F.avg_pool2d(x, 4),
        F.interpolate(x, size=(16, 16), mode="bilinear", align_corners=False),
        F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=2.0, mode="nearest"),
    )  # fmt: skip


def products(x: Tensor, y: Tensor, **parts: nn.Module) -> tuple[Tensor, ...]:
    return (
        parts["linear"](x), parts["unbiased"](x), parts["norm"](x), x @ y, x @ x.transpose(1, 2), x.softmax(-1),
        x.softmax(1), x.mean(dim=(1, 2)), x.mean(dim=1, keepdim=True), x.sum(dim=2), x.amax(dim=1), x.amin(dim=2),
        x.argmax(dim=2),
    )  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def modules(kind: str) -> Function:
    torch.manual_seed(0)
    if kind == "images":
        norm = nn.BatchNorm2d(4).eval()
        norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
        return Function(
            images, plain=nn.Conv2d(4, 6, 3, padding=1), strided=nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            dilated=nn.Conv2d(4, 2, 3, dilation=2), depthwise=nn.Conv2d(4, 4, 5, padding=(2, 1), groups=4),
            up=nn.ConvTranspose2d(4, 3, 2, stride=2), norm=norm, line=nn.Conv1d(4, 5, 3, padding=1),
        )  # fmt: skip
    if kind == "products":
        return Function(
            products, linear=nn.Linear(6, 5), unbiased=nn.Linear(6, 3, bias=False), norm=nn.LayerNorm(6, eps=1e-4)
        )
    return Function({"elementwise": elementwise, "logic": logic, "shapes": shapes, "attention": attention}[kind])


INPUTS = {
    "elementwise": ("x:2x3", "y:2x3"),
    "logic": ("x:2x3", "y:2x3", "k:2x3:int"),
    "shapes": ("x:1x6x4", "y:1x6x4"),
    "images": ("x:1x4x8x8",),
    "products": ("x:2x4x6", "y:2x6x3"),
    "attention": ("q:1x2x5x8", "k:1x2x7x8", "v:1x2x7x8", "bias:1x1x1x7"),
}


def made(kind: str) -> tuple[Part, dict[str, Tensor]]:
    """A part of that kind, and inputs for it."""
    generator = torch.Generator().manual_seed(7)
    module = modules(kind).eval()
    features, inputs = [], {}
    for text in INPUTS[kind]:
        name, size, *integer = text.split(":")
        shape = tuple(int(side) for side in size.split("x"))
        features.append(Feature(name, shape, "int32" if integer else "float", ""))
        drawn = torch.randint(0, 4, shape, generator=generator) if integer else torch.randn(shape, generator=generator)
        inputs[name] = drawn.to(torch.int32) if integer else drawn
    results = module(*inputs.values())
    outputs = tuple(
        Feature(f"out{i}", tuple(value.shape), "float" if value.is_floating_point() else "int32", "")
        for i, value in enumerate(results)
    )
    return Part("Test", kind, module, tuple(features), outputs, "test"), inputs


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], tuple[Saved, dict[str, Tensor]]]:
    """Convert a kind of module once, save it, and hand it out with its inputs."""
    folder = tmp_path_factory.mktemp("packages")
    known: dict[tuple[str, str, str], tuple[Saved, dict[str, Tensor]]] = {}

    def get(kind: str, precision: str = "fp32", system: str = "ios17") -> tuple[Saved, dict[str, Tensor]]:
        key = (kind, precision, system)
        if key not in known:
            part, inputs = made(kind)
            path = folder / f"{kind}-{precision}-{system}.mlpackage"
            convert_part(part, precision=precision, system=system).save(str(path))
            known[key] = Saved(part, path), inputs
        return known[key]

    return get


def operations_in(path: Path) -> set[str]:
    found = set()
    for function in load_program(path).functions.values():
        found |= {operation.op_type for operation in function.operations}
    return {kind for kind in found if kind != "const" and not kind.startswith("constexpr_")}


CASES = [(kind, "ios17") for kind in INPUTS if kind != "attention"] + [("attention", "ios18"), ("shapes", "ios18")]


@pytest.mark.parametrize(("kind", "system"), CASES)
def test_a_package_read_back_computes_what_torch_computes(saved, kind: str, system: str) -> None:
    package, inputs = saved(kind, "fp32", system)
    values = CoreML().load(package, rounded=False)(inputs)
    truths = package.part.run(inputs)
    assert set(values) == set(truths)
    for name, truth in truths.items():
        torch.testing.assert_close(values[name].float(), truth.float(), rtol=1e-5, atol=1e-5)


def test_every_known_operation_is_compared_with_torch(saved) -> None:
    compared = set()
    for kind, system in CASES:
        compared |= operations_in(saved(kind, "fp32", system)[0].path)
    assert set(OPERATIONS) - compared == set()


def test_rounded_results_are_half_precision_numbers(saved) -> None:
    package, inputs = saved("products", "fp16", "ios17")
    values = CoreML().load(package, rounded=True)(inputs)
    exact = CoreML().load(package, rounded=False)(inputs)
    assert torch.equal(values["out3"], values["out3"].half().float())
    assert not torch.equal(exact["out3"], exact["out3"].half().float())
    torch.testing.assert_close(values["out3"], exact["out3"], rtol=5e-3, atol=5e-3)


def test_an_unknown_operation_is_named(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = saved("elementwise", "fp32", "ios17")
    monkeypatch.delitem(mil_interpreter.OPERATIONS, "gelu")
    with pytest.raises(UnknownOperation, match=r"'gelu'.*OPERATIONS"):
        Interpreter.load(package.path, rounded=False)


def test_the_largest_magnitude_is_seen_before_rounding_hides_it(tmp_path: Path) -> None:
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.fill_(1e4)
    module = Function(lambda x, big: (big(x).relu().sigmoid(),), big=linear)
    part = Part("Big", "big", module, (Feature("x", (1, 2), "float", ""),), (Feature("y", (1, 2), "float", ""),), "test")
    path = tmp_path / "big.mlpackage"
    convert_part(part, precision="fp16", system="ios17").save(str(path))
    run = Interpreter.load(path, rounded=True)
    value = run({"x": torch.tensor([[4.0, 4.0]])})["y"]
    assert torch.equal(value, torch.ones(1, 2))  # the output looks innocent
    (peak,) = (peak for peak in run.peaks.values() if peak.operation == "linear")
    assert peak.fp16
    assert peak.value == pytest.approx(8e4, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "system", "bound"), [("int8", "ios17", 0.02), ("palette6", "ios17", 0.2), ("palette4", "ios18", 0.5)]
)
def test_compressed_weights_are_unpacked(tmp_path: Path, kind: str, system: str, bound: float) -> None:
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    module = Function(lambda x, linear: (linear(x),), linear=nn.Linear(64, 64))
    part = Part("C", "c", module, (Feature("x", (1, 64), "float", ""),), (Feature("y", (1, 64), "float", ""),), "test")
    model = compress(convert_part(part, precision="fp16", system=system), kind)
    path = tmp_path / "c.mlpackage"
    model.save(str(path))
    kinds = {operation.op_type for operation in load_program(path).functions["main"].operations}
    assert any(each.startswith("constexpr_") for each in kinds)
    inputs = {"x": torch.randn(1, 64)}
    difference = Interpreter.load(path, rounded=False)(inputs)["y"] - part.run(inputs)["y"]
    assert 0 < difference.abs().max() < bound * part.run(inputs)["y"].abs().max()


def test_wrong_inputs_are_refused_by_name(saved) -> None:
    package, inputs = saved("products", "fp32", "ios17")
    run = Interpreter.load(package.path, rounded=False)
    with pytest.raises(ValueError, match=r"takes \['x', 'y'\]; given \['x'\]"):
        run({"x": inputs["x"]})
    with pytest.raises(ValueError, match=r"input x has shape \(1, 4, 6\); the program takes \(2, 4, 6\)"):
        run(inputs | {"x": inputs["x"][:1]})


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a Core ML package"):
        Interpreter.load(tmp_path, rounded=False)


def test_running_twice_gives_the_same_numbers_and_keeps_no_state(saved) -> None:
    package, inputs = saved("images", "fp32", "ios17")
    run = Interpreter.load(package.path, rounded=False)
    first = run(inputs)
    run({"x": torch.zeros_like(inputs["x"])})
    again = run(inputs)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_rounding_piece_by_piece_is_rounding_of_the_whole(
    order: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of tensors whose numbers lie in another order in memory; the largest magnitude is that of before."""
    monkeypatch.setattr(mil_interpreter, "PIECE", 7)
    value = (1000 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))).permute(order)
    before = value.clone()
    run = Interpreter.__new__(Interpreter)
    run.rounded, run.record, run.peaks = True, True, {}
    run._round("mul", "x", value, True)
    assert torch.equal(value, before.half().float())
    assert run.peaks["x"].value == before.abs().max().item()


def test_what_cannot_be_the_first_to_overflow_is_not_recorded() -> None:
    """Operations that move numbers, or whose results are no larger than 1 or than what they are given."""
    given, one = torch.linspace(-300, 300, 64).reshape(1, 1, 8, 8), torch.ones(())
    functions = {
        "relu": F.relu,
        "max_pool": lambda x: F.max_pool2d(x, 2),
        "softmax": lambda x: x.softmax(-1),
        "sigmoid": torch.sigmoid,
        "gelu": F.gelu,
        "sin": torch.sin,
        "cos": torch.cos,
    }
    for kind, function in functions.items():
        assert kind in mil_interpreter.MOVES | mil_interpreter.BOUNDED
        assert function(given).abs().max() <= torch.maximum(one, given.abs().max())
    run = Interpreter.__new__(Interpreter)
    run.rounded, run.record, run.peaks = True, True, {}
    value = torch.tensor([[1.0001, 2.0]])
    run._round("gelu", "x", value, True)
    assert torch.equal(value, torch.tensor([[1.0, 2.0]]))
    assert not run.peaks
