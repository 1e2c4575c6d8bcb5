"""Our step against `edgetam-dimos` and Hugging Face's `EdgeTamVideoModel`: same weights, same frames, one run.

    python benchmarks/inference.py --frames 20 --video clip.mp4 --weights edgetam.pt

All contestants track one object from one click and go through the video side by side, a frame each in turn, so that
whatever else the machine does disturbs all of them alike. A time is that of one tracked frame with a full bank, from
pixels to a mask of the frame's size (the peers have resized and normalised their frames beforehand; we do it within the
time). On a CPU the processor time of each frame is told as well: it does not count what other programs took. The first
frames are not timed one by one: "warm-up" is all of them by the clock, in which --compile compiles.
Without --weights the weights are random, with presence forced: the arithmetic is the same. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import peers
import torch
from torch import Tensor

from edgetam_pl.build import build_model
from edgetam_pl.commands.bench import machine
from edgetam_pl.config import ModelConfig
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.environment import BF16_FLAGS, processor_flags
from edgetam_pl.io.video import Stills, open_video
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import load_into, save_official

PLAIN = "ours"
LIKE_HF = "ours, prompted memory binarized"
HALF = "ours, bfloat16"
ANCHORS = {"edgetam-dimos": PLAIN, "huggingface": LIKE_HF, HALF: PLAIN}
"""Whose masks each contestant should reproduce: Hugging Face always binarizes the memory of a prompted frame."""

Times = dict[str, list[float]]
"""Milliseconds by contestant."""

WARM_UP = 8
"""Frames that are not timed: spatial memories are complete from frame 7 on."""


def main() -> int:
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model(ModelConfig(image_size=args.size)).eval()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(args.weights) if args.weights else Path(folder) / "random.pt"
        if args.weights:
            load_into(model, weights)
        else:
            _force_presence(model)
            save_official(model, weights)
        frames = _frames(args)
        click = (0.5 * args.size, 0.5 * args.size)
        contestants, missing = _contestants(model, weights, frames, click, args)
        wall, processor, logits = _race(contestants, args.frames)
    result = _result(wall, processor, logits, missing, args)
    print(_card(result))
    print(json.dumps(result))
    return 0


def _contestants(
    model: TrackAnything, weights: Path, frames: np.ndarray, click: tuple[float, float], args: argparse.Namespace
) -> tuple[dict[str, Iterator[Tensor]], dict[str, str]]:
    """What takes part, and why others do not."""
    device = args.device
    tracker = FastTracker(model.to(device), compiled=args.compile, cuda_graphs=args.cuda_graphs)
    released = SessionOptions.released(postprocessing=False)

    def ours(**changes: Any) -> Iterator[Tensor]:
        options = replace(released, channels_last=True, **changes)
        session = Session(tracker, Stills(frames), options=options, device=device)
        session.prompt(1, 0, points=[click])
        return (out.logits[0] for out in session.propagate())

    images = model.normalise(torch.from_numpy(frames).permute(0, 3, 1, 2).to(device))
    running = {PLAIN: ours()}
    missing = {}
    if device != "cpu" or set(processor_flags()) & set(BF16_FLAGS):
        running[HALF] = ours(autocast=torch.bfloat16)
    else:
        missing[HALF] = "this processor has no instructions for bfloat16"
    peer_runs: dict[str, Callable[..., Iterator[Tensor]]] = {
        "edgetam-dimos": peers.track_with_package,
        "huggingface": peers.track_with_huggingface,
    }
    for name, run in peer_runs.items():
        if name not in args.peers:
            continue
        reason = peers.available(name)
        if reason is not None:
            missing[name] = reason
            continue
        running[name] = run(weights, images, click, device=device)
        if name == "huggingface":
            running[LIKE_HF] = ours(binarize_prompted_memory=True, memory_dtype=None)
    return running, missing


def _race(contestants: dict[str, Iterator[Tensor]], count: int) -> tuple[Times, Times, dict[str, list[Tensor]]]:
    """Milliseconds of each frame by the clock and of the processor, and its logits, by contestant."""
    names = list(contestants)
    wall: Times = {name: [] for name in names}
    processor: Times = {name: [] for name in names}
    logits: dict[str, list[Tensor]] = {name: [] for name in names}
    for t in range(count):
        for name in names[t % len(names) :] + names[: t % len(names)]:  # nobody is always the first
            _wait()
            begin, spent = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                answer = next(contestants[name])
            _wait()
            wall[name].append(1000 * (time.perf_counter() - begin))
            processor[name].append(1000 * (time.process_time() - spent))
            logits[name].append(answer.float().cpu().clone())
        print(f"frame {t + 1} of {count}", file=sys.stderr, flush=True)
    return wall, processor, logits


def _result(
    wall: Times,
    processor: Times,
    logits: dict[str, list[Tensor]],
    missing: dict[str, str],
    args: argparse.Namespace,
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    early = {name: sum(times[:WARM_UP]) / 1000 for name, times in wall.items()}
    wall, processor = ({name: times[WARM_UP:] for name, times in found.items()} for found in (wall, processor))
    for name, measured in wall.items():
        entry: dict[str, Any] = {"ms": _spread(measured), "times_ours": _spread(_ratios(measured, wall[PLAIN]))}
        entry["warm_up_s"] = round(early[name], 1)
        if args.device == "cpu":
            entry["processor_ms"] = _spread(processor[name])
            entry["processor_times_ours"] = _spread(_ratios(processor[name], processor[PLAIN]))
        if name in ANCHORS:
            entry["agreement"] = {"with": ANCHORS[name], **_agreement(logits[name], logits[ANCHORS[name]])}
        entries[name] = entry
    return {
        "benchmark": "inference",
        "image_size": args.size,
        "timed_frames": args.frames - WARM_UP,
        "weights": Path(args.weights).name if args.weights else "random",
        "video": Path(args.video).name if args.video else "generated",
        "compile": args.compile,
        "cuda_graphs": args.cuda_graphs,
        "machine": machine(torch.device(args.device)),
        "contestants": entries,
        "left_out": missing,
    }


def _ratios(theirs: list[float], ours: list[float]) -> list[float]:
    return [a / b for a, b in zip(theirs, ours)]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _agreement(found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """Of masks over all frames, and of logits relative to the largest one."""
    a, b = torch.stack(found), torch.stack(expected)
    both, either = ((a > 0) & (b > 0)).sum(), ((a > 0) | (b > 0)).sum()
    return {
        "differing_pixels": int(((a > 0) != (b > 0)).sum()),
        "pixels": a.numel(),
        "mask_share": round(float((b > 0).float().mean()), 4),
        "iou": round(float(both / either.clamp(min=1)), 6),
        "largest_logit_error": float((a - b).abs().max() / b.abs().max()),
    }


def _card(result: dict[str, Any]) -> str:
    where = result["machine"]
    lines = [
        f"EdgeTAM at {result['image_size']} px, one object, full bank, {result['timed_frames']} timed frames, "
        f"{result['weights']} weights, {result['video']} video",
        f"{where['device']}, {where['threads']} thread(s), torch {where['torch']}, {where['date']}, instructions up to "
        f"{where['limit']}, products by {where['products']}",
        "",
        f"{'':<34}{'ms per frame':>22}{'x ours':>20}{'processor ms, x ours':>24}{'warm-up s':>11}   masks",
    ]
    for name, entry in result["contestants"].items():
        ms, ratio = entry["ms"], entry["times_ours"]
        spread = f"{ms['median']:.0f} [{ms['min']:.0f}-{ms['max']:.0f}]"
        ratios = f"{ratio['median']:.2f} [{ratio['min']:.2f}-{ratio['max']:.2f}]"
        text = ""
        if "agreement" in entry:
            agreement = entry["agreement"]
            text = (
                f"{agreement['differing_pixels']} of {agreement['pixels']} pixels differ from {agreement['with']}, "
                f"logits by {agreement['largest_logit_error']:.1e}"
            )
        spent = ""
        if "processor_ms" in entry:
            spent = f"{entry['processor_ms']['median']:.0f}, {entry['processor_times_ours']['median']:.2f}"
        lines.append(f"{name:<34}{spread:>22}{ratios:>20}{spent:>24}{entry['warm_up_s']:>11}   {text}")
    lines += [f"{name:<34} left out: {reason}" for name, reason in result["left_out"].items()]
    return "\n".join(lines)


def _frames(args: argparse.Namespace) -> np.ndarray:
    """(T, S, S, 3) uint8, so that nobody has to resize."""
    if args.video:
        video = open_video(args.video)
        return np.stack(
            [cv2.resize(video[t], (args.size, args.size), interpolation=cv2.INTER_AREA) for t in range(args.frames)]
        )
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (args.size, args.size))
    frames = []
    for t in range(args.frames):
        centre = (args.size // 2 + 6 * t, args.size // 2 + 3 * t)
        frames.append(cv2.circle(ground.copy(), centre, args.size // 8, (230, 90, 40), -1))
    return np.stack(frames)


def _force_presence(model: TrackAnything) -> None:
    """Untrained decoders may judge the object absent; every mask is empty then, and any two models agree."""
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            if name.endswith("presence_head.layers.2.bias"):
                parameter.fill_(5.0)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="official edgetam.pt; without it, random numbers")
    parser.add_argument("--video", help="video file or folder; without it, a generated clip")
    parser.add_argument("--frames", type=int, default=20, help=f"frames in all; the first {WARM_UP} are not timed")
    parser.add_argument("--size", type=int, default=1024, help="side of the square input, a multiple of 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", nargs="*", default=list(peers.PACKAGES), choices=list(peers.PACKAGES))
    parser.add_argument("--compile", default="none", choices=("none", "attention", "all"))
    parser.add_argument("--cuda-graphs", action="store_true")
    args = parser.parse_args()
    if args.frames <= WARM_UP:
        parser.error(f"--frames is {args.frames}; the first {WARM_UP} are not timed, so give more.")
    return args


if __name__ == "__main__":
    sys.exit(main())
