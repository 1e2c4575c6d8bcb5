"""Is another engine faster than ours on a CPU? The same tracked frames by PyTorch, torch.compile, ONNX Runtime and OpenVINO.

    python benchmarks/engines.py
    python benchmarks/engines.py --packages runs/export --engines "ONNX Runtime" OpenVINO

"ours" is the eager path that `track` takes on a CPU. ONNX Runtime and OpenVINO run the exported programs (backend=onnx,
float32) behind the same `Tracker` protocol: an encoder, and a program that attends, decodes and remembers with a bank padded
to a fixed size. They are converted here from random weights, presence forced; --packages names a folder where they are kept,
or one that `edgetam export backend=onnx weights=random` wrote. All track one object from one click, a frame each in turn. A
time is that of one frame with a full bank, from pixels at the model's size to its logits; medians, and the pixels of masks
that differ from ours. "Ready after" is conversion, loading and the frames before, in which torch.compile compiles.
An engine that is not installed is named. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inference
from edgetam_pl.commands.bench import machine
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.adapters import flatten, loop_of, prepared
from edgetam_pl.exporting.client import PackagedTracker, RingBank
from edgetam_pl.exporting.onnx import Onnx, OnnxProgram
from edgetam_pl.exporting.parts import Program
from edgetam_pl.exporting.run import load
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import no_prompt, prompt_at_once
from edgetam_pl.tracking.step import Tracker, step
from edgetam_pl.types import FOREGROUND, Prompts

OURS, COMPILED, ONNX, OPENVINO = "ours", "torch.compile", "ONNX Runtime", "OpenVINO"
PACKAGES = {ONNX: "onnxruntime", OPENVINO: "openvino"}
"""What an engine needs, to be installed with pip."""


class OpenVinoProgram:
    """An ONNX file under OpenVINO, in float32, with as many threads as PyTorch has."""

    def __init__(self, path: Path) -> None:
        import openvino  # not a dependency of this project

        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.compiled({name: value.numpy() for name, value in inputs.items()})
        return {port.any_name: torch.from_numpy(np.array(found[port])) for port in self.compiled.outputs}


PROGRAMS: dict[str, Callable[[Path], Program]] = {ONNX: OnnxProgram, OPENVINO: OpenVinoProgram}


def main() -> int:
    args = _arguments()
    torch.set_num_threads(args.threads)
    cfg = ExportConfig(weights="random", backend="onnx", size=args.size)
    model = load(cfg)[0].eval()
    frames = torch.from_numpy(inference._frames(args)).permute(0, 3, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        running, ready, missing = _contestants(model, frames, cfg, Path(args.packages or folder), args)
        wall, processor, logits = inference._race(running, args.frames)
    for name, times in wall.items():
        ready[name] += sum(times[: inference.WARM_UP]) / 1000
    wall, processor = ({name: times[inference.WARM_UP :] for name, times in found.items()} for found in (wall, processor))
    rows = {}
    for name in running:
        rows[name] = {
            "ms": inference._spread(wall[name]),
            "processor_ms": inference._spread(processor[name]),
            "as_fast": inference._spread(inference._ratios(processor[OURS], processor[name])),
            "agreement": inference._agreement(logits[name], logits[OURS]),
            "ready_s": round(ready[name], 1),
        }
    where = machine(torch.device("cpu"))
    print(
        f"A tracked frame, EdgeTAM at {args.size} px, one object, full bank, {args.frames - inference.WARM_UP} timed frames"
    )
    print(f"{where['device']}, {args.threads} thread(s), torch {where['torch']}, {where['date']}, up to {where['limit']}")
    print(f"{'':<16}{'ms':>24}{'processor ms':>14}{'times as fast':>15}{'ready after':>13}   masks")
    for name, row in rows.items():
        ms, agreement = row["ms"], row["agreement"]
        spread = f"{ms['median']:.0f} [{ms['min']:.0f}-{ms['max']:.0f}]"
        print(
            f"{name:<16}{spread:>24}{row['processor_ms']['median']:>14.0f}{row['as_fast']['median']:>15.2f}"
            f"{row['ready_s']:>11.1f} s   {agreement['differing_pixels']} of {agreement['pixels']} pixels differ"
        )
    for name, reason in missing.items():
        print(f"{name:<16} left out: {reason}")
    print(json.dumps({"benchmark": "engines", "size": args.size, "machine": where, "rows": rows, "left_out": missing}))
    return 0


def _contestants(
    model: TrackAnything, frames: Tensor, cfg: ExportConfig, folder: Path, args: argparse.Namespace
) -> tuple[dict[str, Iterator[Tensor]], dict[str, float], dict[str, str]]:
    """What tracks, after how many seconds it was ready to begin, and what is left out and why."""
    policy, flat = RecallPolicy(past_pointers_only=True), prepared(model)
    loop, missing, ready = loop_of(flat, cfg), {}, {}
    running: dict[str, Iterator[Tensor]] = {}
    for name in dict.fromkeys((OURS, *args.engines)):
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            missing[name] = f"pip install {PACKAGES[name]}"
            continue
        begin = time.perf_counter()
        if name in PROGRAMS:
            tracker = PackagedTracker(_programs(flat, cfg, folder, PROGRAMS[name]), loop)
            running[name] = _tracked(tracker, RingBank(loop, policy), frames)
        else:
            fast = FastTracker(model, compiled="all" if name == COMPILED else "none")
            images = fast.normalise(frames).contiguous(memory_format=torch.channels_last)
            running[name] = _tracked(fast, MemoryBank(policy=policy), images)
        ready[name] = time.perf_counter() - begin
    return running, ready, missing


def _programs(flat: TrackAnything, cfg: ExportConfig, folder: Path, read: Callable[[Path], Program]) -> dict[str, Program]:
    """The programs by role, converted where the folder has none yet."""
    parts = flatten(flat, cfg)
    if not list(folder.glob("*.onnx")):
        Onnx().convert(parts, folder, cfg)
    return {part.role: read(folder / f"{part.name}.onnx") for part in parts}


def _tracked(tracker: Tracker, bank: Any, images: Tensor) -> Iterator[Tensor]:
    """Logits (S/4, S/4) of frame after frame of images (T, 3, S, S), as the tracker's encoder wants them."""
    size = images.shape[-1]
    click = Prompts(torch.tensor([[[0.5 * size, 0.5 * size]]]), torch.tensor([[FOREGROUND]]))
    for t in range(len(images)):
        features = tracker.encode(images[t : t + 1])
        output, bank = step(tracker, bank, features, t, prompt_at_once(click) if t == 0 else no_prompt)
        yield output.final.best[0, 0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=(ONNX, OPENVINO, COMPILED), default=[ONNX, OPENVINO, COMPILED])
    parser.add_argument("--packages", help="folder of the programs; filled if empty; without it, a temporary one")
    parser.add_argument("--frames", type=int, default=inference.WARM_UP + 5, help="the first ones are not timed")
    parser.add_argument("--size", type=int, default=1024, help="side of the square input, a multiple of 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--video", help="video file or folder; without it, a generated clip")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
