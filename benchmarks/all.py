"""Every benchmark that needs no data set, each in short, and one table of what they say: `make bench-all`.

    python benchmarks/all.py --out runs/bench

Each runs in a process of its own, one after the other; a benchmark that fails or takes longer than --limit seconds is named
in the table and the others go on. --out receives the table (table.md) and the last line of each (NAME.json). About half an
hour on a core with AVX-512. On a machine with a GPU give --device cuda; it was not run on one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from edgetam_pl.commands.bench import machine
from edgetam_pl.io.atomic import write_text

HERE = Path(__file__).parent
Row = tuple[str, str]
"""What was measured, and the figure."""


def main() -> int:
    args = _arguments()
    found = [_run(name, args) for name in args.only]
    where = machine(torch.device(args.device))
    lines = [
        f"{where['device']}; {' '.join(where['flags'])}; instructions up to {where['limit']}, products by "
        f"{where['products']}; torch {where['torch']}, {where['date']}",
        "",
        "| benchmark | what | figure |",
        "|---|---|---|",
        *(f"| {name} | {what} | {figure} |" for name, rows in found for what, figure in rows),
    ]
    text = "\n".join(lines)
    write_text(args.out / "table.md", text + "\n")
    print(text)
    failed = [name for name, rows in found if rows and rows[0][0] == "failed"]
    return 1 if failed else 0


def _run(name: str, args: argparse.Namespace) -> tuple[str, list[Row]]:
    command, rows = BENCHMARKS[name]
    words = [sys.executable, str(HERE / command[0]), *command[1:]]
    if args.device != "cpu" and command[0] in TAKES_DEVICE:
        words += ["--device", args.device]
    print(f"{name}: {' '.join(words[1:])}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=args.limit)
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return name, [("failed", f"not done after {args.limit} s")]
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return name, [("failed", said[-1] if said else "without a word")]
    write_text(args.out / f"{name.replace(' ', '_')}.json", json.dumps(result) + "\n")
    return name, list(rows(result))


def _inference(result: dict[str, Any]) -> Iterable[Row]:
    for name, entry in result["contestants"].items():
        figure = f"{entry['ms']['median']:.0f} ms, {entry['times_ours']['median']:.2f} times ours"
        if "agreement" in entry:
            figure += f", {entry['agreement']['differing_pixels']} of {entry['agreement']['pixels']} pixels differ"
        yield f"tracked frame: {name}", figure
    yield from ((f"tracked frame: {name}", f"left out: {reason}") for name, reason in result["left_out"].items())


def _kernels(result: dict[str, Any]) -> Iterable[Row]:
    return ((f"launches of a frame: {name}", str(count)) for name, count in result["launches"].items())


def _train(result: dict[str, Any]) -> Iterable[Row]:
    for row in result["rows"]:
        what = f"training step, {row['prompts']}: {row['contestant']}"
        yield what, f"{row['seconds'][0]:.2f} s, {row['faster']:.2f} times as fast, {row['memory']:.2f} of the memory"


def _memory(result: dict[str, Any]) -> Iterable[Row]:
    for name in ("bounded", "keep_all"):
        yield f"growth of a session over {result['frames']} frames, {name}", f"{result[name]['growth']} MB"


def _scaling(result: dict[str, Any]) -> Iterable[Row]:
    return ((f"{row['what']}, {row['grows']} {row['values'][0]} to {row['values'][-1]}", f"exponent {row['exponent']:.2f}")
            for row in result["rows"])  # fmt: skip


def _floor(result: dict[str, Any]) -> Iterable[Row]:
    for name, row in result["rows"].items():
        spent = ", ".join(f"{1000 * row[key]:.0f}" for key in ("at_best_rate", "products", "measured"))
        yield f"{result['what']}, {result['size']} px: {name}", f"{spent} ms: all at the best rate, each product, measured"


BENCHMARKS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Iterable[Row]]]] = {
    "inference": (("inference.py", "--frames", "13"), _inference),
    "kernels": (("kernels.py",), _kernels),
    "train step": (("train_step.py", "--teacher", "none", "--objects", "2", "--rounds", "1", "--steps", "5"), _train),
    "floor of a frame": (("floor.py",), _floor),
    "floor of a step": (("floor.py", "--what", "step", "--size", "256"), _floor),
    "memory": (("memory.py", "--frames", "400"), _memory),
    "scaling": (("scaling.py", "--rounds", "3"), _scaling),
}
TAKES_DEVICE = ("inference.py", "train_step.py")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=900, help="seconds for each")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
