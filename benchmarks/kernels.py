"""How many kernels does a tracked frame start? Counted for the released code, Transformers and ours, same weights, one run.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --compile        # also the kernels that torch.compile generates; minutes

On a GPU a small model waits for launches more than for arithmetic, and each operation is at least one launch. Views and new
empty tensors are not counted, nor are the exchanges of layers that ours makes on a CPU alone. "Recorded" is ours with
cuda_graphs=true, which replays four graphs a frame: a launch each, the copies of what goes in and out, and the operations
between the graphs. Counting needs no GPU; nothing of this was run on one, and what a launch costs there was not measured.

"Compiled" is ours with compile=all, and the released code with its image encoder, memory attention, mask decoder, memory
encoder and perceiver compiled, as SAM 2's own compiled predictor does it. What Inductor writes for the CPU is read: calls of
generated kernels and of libraries (products, convolutions) in the code of each part, and the operations between the parts.
For a GPU it would write other code.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.utils import fresh_cache
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import inference
from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.inference import optimised
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import save_official

LAUNCHLESS = ("empty", "empty_strided", "new_empty", "empty_like", "lift_fresh", "_local_scalar_dense", "detach", "set_")
"""Operations that start no kernel and are no views either."""

RELEASED = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder", "spatial_perceiver")
"""Parts of the released code that are compiled."""

LAUNCHED = re.compile(r"\b(cpp_fused\w*|extern_kernels\.\w+|torch\.ops\.(?:aten|mkldnn|mkl)\.[\w.]+)\(")
"""Calls in the code that Inductor writes."""

FRAMES = inference.WARM_UP + 1
"""The last one is counted: its bank is full."""


class Count(TorchDispatchMode):
    """Counts operations that would start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in LAUNCHLESS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.frames, args.device, args.cuda_graphs, args.video = FRAMES, "cpu", False, None
    args.peers = list(inference.peers.PACKAGES)
    model = build_model(ModelConfig(image_size=args.size)).eval()
    inference._force_presence(model)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.pt"
        save_official(model, weights)
        frames, click = inference._frames(args), (0.5 * args.size, 0.5 * args.size)
        with _as_on_a_gpu():
            eager = argparse.Namespace(**vars(args) | {"compile": "none"})
            running, missing = inference._contestants(model, weights, frames, click, eager)
        counts = {name: _counted(answers) for name, answers in running.items() if name != inference.LIKE_HF}
        if args.compile:
            counts |= _compiled(model, weights, frames, click)
    counts["ours, recorded"] = _recorded(model, frames, click)
    rows = {name: sum(found.values()) for name, found in counts.items()}
    _report(rows, counts, missing, args)
    return 0


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Without the exchanges of layers that are made on a CPU alone."""
    with ExitStack() as stack:
        for exchange in ("use_onednn", "use_lean_blocks", "use_lean_layers"):
            stack.enter_context(patch.object(optimised, exchange))
        yield


def _counted(answers: Iterator[Tensor], count: Count | None = None) -> Counter[str]:
    count = count or Count()
    with torch.inference_mode():
        for _ in range(FRAMES - 1):
            next(answers)
        count.found.clear()
        with count:
            next(answers)
    return count.found


def _recorded(model: TrackAnything, frames: Any, click: tuple[float, float]) -> Counter[str]:
    """What is launched outside of the graphs that cuda_graphs=true records, and for them."""
    with _as_on_a_gpu():
        tracker = FastTracker(model)
    tracker._padded = True  # a bank of fixed size, as the graphs need it
    count = Count()

    def replayed(part: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with _disable_current_modes():
                made = part(*given)
            for kind, tensors in (("copied in", given), ("copied out", made)):
                count.found[kind] += sum(isinstance(leaf, Tensor) for leaf in tree_leaves(tensors))
            count.found["graph"] += 1
            return made

        return call

    for name in ("_encode", "_blend", "_decode", "_memorize"):
        setattr(tracker, name, replayed(getattr(tracker, name)))
    session = Session(tracker, Stills(frames), options=SessionOptions.released(postprocessing=False))
    session.prompt(1, 0, points=[click])
    return _counted((out.logits[0] for out in session.propagate()), count)


def _compiled(model: TrackAnything, weights: Path, frames: Any, click: tuple[float, float]) -> dict[str, Counter[str]]:
    """What Inductor's code of the compiled parts calls, and what is launched between them."""
    count, found = Count(), {}
    tracker = FastTracker(model, compiled="all")
    for name in ("_encode", "_blend", "_decode", "_memorize"):
        setattr(tracker, name, _aside(getattr(tracker, name)))
    session = Session(tracker, Stills(frames), options=SessionOptions.released(postprocessing=False))
    session.prompt(1, 0, points=[click])
    running = {"ours, compiled": (out.logits[0] for out in session.propagate())}

    def compile_released(predictor: torch.nn.Module) -> None:
        for name in RELEASED:
            part = predictor.get_submodule(name)
            part.forward = _aside(torch.compile(part.forward))

    if inference.peers.available("edgetam-dimos") is None:
        images = model.normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
        running["edgetam-dimos, compiled"] = inference.peers.track_with_package(
            weights, images, click, device="cpu", prepare=compile_released
        )
    plain = CompiledFxGraph.__call__

    def read(graph: CompiledFxGraph, inputs: Any) -> Any:
        """Runs a compiled graph, and adds the kernels that its code calls to the count."""
        for called in LAUNCHED.findall(graph.source_code.partition("def call(")[2]):
            count.found["generated" if called.startswith("cpp_fused") else called] += 1
        return plain(graph, inputs)

    unoptimised = {"aot_inductor.debug_compile": True}  # by the C++ compiler: nothing is timed here, and it takes most
    with fresh_cache(), torch._inductor.config.patch(unoptimised), patch.object(CompiledFxGraph, "__call__", read):
        for name, answers in running.items():
            begin = time.perf_counter()
            found[name] = Counter(_counted(answers, count))
            spent = time.perf_counter() - begin
            print(f"{name}: {sum(found[name].values())}, compiled in {spent:.0f} s", file=sys.stderr, flush=True)
    return found


def _aside(part: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled part, none of whose own operations are counted."""

    def call(*given: Any, **named: Any) -> Any:
        with _disable_current_modes():
            return part(*given, **named)

    return call


def _report(
    rows: dict[str, int], counts: dict[str, Counter[str]], missing: dict[str, str], args: argparse.Namespace
) -> None:
    released = rows.get("edgetam-dimos")
    print(f"Launches of a tracked frame, EdgeTAM at {args.size} px, one object, full bank; torch {torch.__version__}")
    for name, number in rows.items():
        share = "" if released is None else f"{number / released:8.2f} of the released code's"
        print(f"{name:<20}{number:>7}{share}")
    for name, reason in missing.items():
        print(f"{name:<20} left out: {reason}")
    most = {name: dict(found.most_common(8)) for name, found in counts.items()}
    print(json.dumps({"benchmark": "kernels", "size": args.size, "launches": rows, "most": most, "left_out": missing}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the input, a multiple of 256; the count is the same")
    parser.add_argument("--compile", action="store_true", help="count what torch.compile makes of it, too; needs a compiler")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
