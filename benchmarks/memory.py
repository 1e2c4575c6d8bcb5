"""Memory of a session on a long video: flat, whatever the number of frames.

    python benchmarks/memory.py --frames 2000

Follows one object through generated frames with the toy model, as from a camera, and prints what the session holds and
what the process takes, in MB of a million bytes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetam_pl.commands.bench import machine
from edgetam_pl.commands.track import load_tracker
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stream

SIZE = (180, 320)
"""Height and width of the frames."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200, help="frames between two lines")
    parser.add_argument("--model", default="toy")
    args = parser.parse_args()
    if args.frames < 2 * args.every:
        parser.error(f"--frames is {args.frames}; give at least twice --every ({args.every}).")
    torch.set_num_threads(1)
    tracker = load_tracker(args.model, "random")
    result: dict[str, Any] = {"benchmark": "memory", "model": args.model, "frames": args.frames, "unit": "MB"}
    result["machine"] = machine(torch.device("cpu"))
    for name, keep_all in (("bounded", False), ("keep_all", True)):
        result[name] = follow(tracker, args.frames, every=args.every, keep_all=keep_all)
        print()
    print(json.dumps(result))
    return 0


def follow(tracker: FastTracker, count: int, *, every: int, keep_all: bool) -> dict[str, Any]:
    """Track; returns MB by frame."""
    session = Session(tracker, Stream(_camera(count)), options=SessionOptions(keep_all=keep_all, gate=False))
    session.prompt(1, 0, points=[(160, 90)])
    print(f"keep_all={keep_all}\n{'frame':>7}{'memories':>10}{'session MB':>12}{'process MB':>12}{'frames/s':>10}")
    lines, begin = [], time.perf_counter()
    for out in session.propagate():
        if (out.frame + 1) % every == 0:
            bank = session.bank(1)
            rate = every / (time.perf_counter() - begin)
            line = {
                "frame": out.frame + 1,
                "memories": len(bank.prompted) + len(bank.recent),
                "session": round(session.held_bytes() / 1e6, 3),
                "process": round(_resident() / 1e6, 1),
            }
            lines.append(line)
            print("".join(f"{value:>{width}}" for value, width in zip(line.values(), (7, 10, 12, 12))) + f"{rate:>10.1f}")
            begin = time.perf_counter()
    return {"lines": lines, "growth": round(lines[-1]["session"] - lines[0]["session"], 3)}


def _camera(count: int) -> Iterator[np.ndarray]:
    """A bright square that circles over noise."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 80, (*SIZE, 3), dtype=np.uint8)
    for t in range(count):
        frame = ground.copy()
        y, x = round(90 + 50 * np.sin(t / 40)), round(160 + 90 * np.cos(t / 40))
        frame[y - 20 : y + 20, x - 20 : x + 20] = (220, 120, 60)
        yield frame


def _resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
