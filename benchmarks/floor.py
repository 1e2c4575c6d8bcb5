"""How fast can a frame, a training step, a gate be in float32 on this processor? FLOPs counted, products timed, one run.

    python benchmarks/floor.py --what frame --peer edgetam-dimos
    python benchmarks/floor.py --what step --size 512
    python benchmarks/floor.py --what gate

Every matrix product, convolution and attention of one tracked frame (full bank, one object), of one training step (as
`train_step.py` takes it, no teacher), or of the gate of `edgetam export model=edgetam weights=random` (Core ML, fp16;
adapters and all rollouts) is written down with its shapes; FLOPs are counted by the formulas of torch.utils.flop_counter.
Two floors follow, for one thread:

* at the best rate: all FLOPs at the best rate that any of these products reached here. No program that multiplies as much
  is faster.
* products alone: each product at the speed of the BLAS or of oneDNN, whichever is faster for its shape, attention at the
  best rate; all else (norms, softmax, activations, copies, dropout masks, losses) free of charge.

Beside them stands what was measured (processor time, median), and the time that a goal leaves: so many times as fast as the
first contestant. A goal that leaves less than a floor needs fewer FLOPs, another precision or another processor. A gate of
float16 programs multiplies in float32, and rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import train_step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

import inference
from edgetam_pl.build import build_model
from edgetam_pl.commands.bench import machine
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ExportConfig, GateConfig, ModelConfig
from edgetam_pl.exporting.backends import backend_of
from edgetam_pl.exporting.gate.allocator import memory_kept
from edgetam_pl.exporting.gate.judge import judge
from edgetam_pl.exporting.gate.measures import Verdict
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.run import load
from edgetam_pl.inference import memory_block, onednn
from edgetam_pl.inference.products import onednn_product
from edgetam_pl.weights import save_official

aten = torch.ops.aten
ATTENTION = {  # on a CPU: the kernel, and the one of the GPU whose formula holds for it
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}


def _of_backward(slope: Tensor, x: Tensor, weight: Tensor, *rest: Any, out_val: Any) -> int:
    """FLOPs of a convolution's backward pass: the forward pass's for each gradient; torch's formula forgets groups."""
    _, stride, padding, dilation, transposed, _, _, wanted = rest
    forward = flop_registry[aten.convolution](x, weight, None, stride, padding, dilation, transposed, out_val=slope)
    return forward * sum(wanted[:2])


FORMULAS = flop_registry | {kernel: flop_registry[known] for kernel, known in ATTENTION.items()}
FORMULAS[aten.convolution_backward] = _of_backward

MATRICES = (aten.mm, aten.addmm, aten.bmm)

ROUNDS = 4
"""Calls of each product; the fastest counts."""


@dataclass(frozen=True)
class Shape:
    """A float tensor, but for its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> Shape:
        return cls(tuple(x.shape), tuple(x.stride()))

    def filled(self) -> Tensor:
        drawn = torch.rand(self.size)
        return drawn if 0 in self.stride else torch.empty_strided(self.size, self.stride).copy_(drawn)


@dataclass
class Call:
    """A product that was made with tensors of these shapes."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flops: int
    times: int = 0

    def ways(self) -> Iterator[Callable[[], object]]:
        """The call itself, and by oneDNN what is a product of two matrices."""
        args, kwargs = tree_map_only(Shape, Shape.filled, (self.args, self.kwargs))
        yield lambda: self.func(*args, **kwargs)
        if self.func._overloadpacket in MATRICES[:2]:
            left, right = args[-2:]
            yield lambda: onednn_product(left, right.T)

    def seconds(self) -> float:
        """Of one call, the least of all ways and rounds."""
        return min(_seconds(way) for way in self.ways() for _ in range(ROUNDS))


@dataclass
class Products(TorchDispatchMode):
    """Writes down every product."""

    calls: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        if packet not in FORMULAS:
            with self:  # a linear layer is a product, seen from within
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        shapes, named = tree_map_only(Tensor, Shape.of, (args, kwargs))
        call = Call(func, shapes, named, FORMULAS[packet](*args, **kwargs, out_val=out))
        self.calls.setdefault(repr((str(func), shapes, named)), call).times += 1
        return out


@dataclass
class Floor:
    """What the products of one contestant take at least."""

    gflop: float
    at_best_rate: float
    products: float
    rate: float
    """GFLOP/s, the best that any product reached."""

    @classmethod
    def of(cls, found: Products) -> Floor:
        timed = [(call, call.seconds()) for call in found.calls.values() if call.func._overloadpacket not in ATTENTION]
        rate = max(call.flops / seconds for call, seconds in timed if call.func._overloadpacket in MATRICES)
        every = sum(call.flops * call.times for call in found.calls.values())
        attention = sum(c.flops * c.times for c in found.calls.values() if c.func._overloadpacket in ATTENTION) / rate
        products = attention + sum(seconds * call.times for call, seconds in timed)
        return cls(every / 1e9, every / rate, products, rate / 1e9)


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured, counted = {"frame": _frame, "step": _step, "gate": _gate}[args.what](args)
    floors = {name: Floor.of(found) for name, found in counted.items()}
    first = next(iter(measured))
    left = {str(goal): measured[first] / goal for goal in args.goals}
    where = machine(torch.device("cpu"))
    print(f"{args.what} at {args.size} px; {where['device']}, instructions up to {where['limit']}, {where['date']}")
    print(f"{'':<16}{'GFLOP':>8}{'GFLOP/s':>9}{'at best rate':>14}{'products':>10}{'measured':>10}   ms")
    for name, floor in floors.items():
        spent = (floor.at_best_rate, floor.products, measured[name])
        figures = "".join(f"{1000 * value:>{width}.0f}" for value, width in zip(spent, (14, 10, 10)))
        print(f"{name:<16}{floor.gflop:>8.1f}{floor.rate:>9.0f}{figures}")
    for goal, seconds in left.items():
        print(f"{goal} times as fast as {first} leaves {1000 * seconds:.0f} ms")
    rows = {name: vars(floor) | {"measured": measured[name]} for name, floor in floors.items()}
    result = {"benchmark": "floor", "what": args.what, "size": args.size, "machine": where, "rows": rows, "left": left}
    print(json.dumps(result))
    return 0


def _frame(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, Products]]:
    """Seconds and products of a tracked frame, by contestant, the peer first."""
    settings = argparse.Namespace(
        size=args.size, frames=inference.WARM_UP + args.rounds + 1, device="cpu", video=None, compile="none",
        cuda_graphs=False, peers=[args.peer],
    )  # fmt: skip
    model = build_model(ModelConfig(image_size=args.size)).eval()
    inference._force_presence(model)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.pt"
        save_official(model, weights)
        frames, click = inference._frames(settings), (0.5 * args.size, 0.5 * args.size)
        running, _ = inference._contestants(model, weights, frames, click, settings)
        racing = {name: running[name] for name in (args.peer, inference.PLAIN) if name in running}
        _, processor, _ = inference._race(racing, settings.frames - 1)
        counted = {name: _written_down(lambda answers=answers: next(answers)) for name, answers in racing.items()}
    return {name: statistics.median(times[inference.WARM_UP :]) / 1000 for name, times in processor.items()}, counted


def _step(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, Products]]:
    """Seconds and products of a training step, by contestant, the plain one first."""
    words = ["", "--size", args.size, "--objects", 2, "--teacher", "none", "--prompts", args.prompts, "--steps", args.rounds]
    with patch.object(sys, "argv", [str(word) for word in words]):
        settings = train_step._arguments()
    measured, counted = {}, {}
    for name in ("plain", "ours"):
        settings.child = name
        measured[name] = train_step._child(settings)["seconds"]
        module, batch = train_step._build(settings, name, dropout=settings.dropout).train(), train_step._clip(settings)
        prompter, step = train_step._prompter(settings, args.prompts, batch), train_step._step_of(settings, name)
        counted[name] = _written_down(lambda: step(module, batch, prompter).backward())  # noqa: B023
    return measured, counted


def _gate(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, Products]]:
    """Seconds and products of the gate of Core ML's packages in float16, without their conversion."""
    words = ["model=edgetam", "weights=random", f"size={args.size}"]
    words += [f"gate.frames={args.frames[0]}", f"gate.short_frames={args.frames[1]}"]
    cfg, _ = composed(ExportConfig, command="export", overrides=words)
    truth, backend = Truth.of(load(cfg)[0], cfg), backend_of(cfg.backend)
    with tempfile.TemporaryDirectory() as folder, memory_kept():
        saved, spent = backend.convert(tuple(truth.parts.values()), Path(folder), cfg), time.process_time()
        note = partial(print, "gate:", flush=True)
        counted = _written_down(lambda: (truth.verbs, judge(truth, backend, saved, cfg, Verdict(), note)))
        return {"gate": time.process_time() - spent}, {"gate": counted}


def _written_down(work: Callable[[], object]) -> Products:
    found = Products()
    plain = [patch.object(room, "faster_library", lambda: "blas") for room in (onednn, memory_block)]  # has formulas
    with plain[0], plain[1], found:
        work()
    return found


def _seconds(work: Callable[[], object]) -> float:
    """Processor time, as what is measured beside it: another program on the core does not count."""
    begin = time.process_time()
    with torch.no_grad():
        work()
    return time.process_time() - begin


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("frame", "step", "gate"), default="frame")
    parser.add_argument("--size", type=int, default=0, help="side of the input; 0: 512 for the step, otherwise 1024")
    parser.add_argument("--peer", default="edgetam-dimos", choices=list(inference.peers.PACKAGES), help="of the frame")
    parser.add_argument("--prompts", default="points", choices=train_step.PROMPTS, help="of the step")
    parser.add_argument("--rounds", type=int, default=3, help="timed frames or steps; their median counts")
    frames = (GateConfig.frames, GateConfig.short_frames)
    parser.add_argument("--frames", type=int, nargs=2, default=frames, help="of the gate: long and short rollouts")
    parser.add_argument("--goals", type=float, nargs="*", default=None, help="times as fast; default 2 and 3, 1.5, 2.4")
    args = parser.parse_args()
    args.size = args.size or (512 if args.what == "step" else 1024)
    args.goals = args.goals or {"frame": [2.0, 3.0], "step": [1.5], "gate": [2.4]}[args.what]
    return args


if __name__ == "__main__":
    sys.exit(main())
