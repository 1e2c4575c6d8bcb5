"""Two real clips, learned by heart: can the whole recipe bring the full EdgeTAM from random weights to J&F above 90?

    python experiments/overfit.py DAVIS --out runs/overfit                 # fp32
    python experiments/overfit.py DAVIS --out runs/overfit_bf16 trainer.precision=bf16-mixed

DAVIS is a folder with JPEGImages and Annotations. The first frames of two sequences are copied and built into shards, then
`edgetam train experiment=overfit` runs on them; every 40 steps the clips are followed from their first mask and scored as
DAVIS does, at their own resolution, first and last frame left out. Words after the flags go to `edgetam train`.
The same command continues a run that was interrupted. `--draw` only draws the curves of finished runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import matplotlib
import torch

from edgetam_pl.commands.main import main as edgetam
from edgetam_pl.training.curves import STEP, read_lines

FRAMES = 5
CLIPS = ("bear", "bus")


def main() -> int:
    args, words = _arguments()
    if args.draw:
        draw(args.draw, args.out)
        return 0
    torch.set_num_threads(args.threads)
    out = args.out
    cut(args.root, out / "clips", args.clips)
    shards = [
        "source=davis",
        f"root={out / 'clips'}",
        f"out={out / 'shards'}",
        f"window={FRAMES}",
        f"stride={FRAMES}",
        "processes=1",
    ]
    if edgetam(["shards", *shards]):
        return 1
    started, wall = time.process_time(), time.perf_counter()
    source = f"data.sources=[{{name: clips, kind: video, shards: {out / 'shards'}}}]"
    status = edgetam(
        ["train", "experiment=overfit", source, f"validation.root={out / 'clips'}", f"out={out / 'train'}", *words]
    )
    print(f"{time.process_time() - started:.0f} s of CPU, {time.perf_counter() - wall:.0f} s on the clock")
    print(json.dumps(read_lines(out / "train" / "validation" / "jf.jsonl")[-1:]))
    return status


def cut(root: Path, out: Path, names: list[str]) -> None:
    """The first FRAMES annotated frames of each sequence, and nothing else, in a folder laid out like the original."""
    shutil.rmtree(out, ignore_errors=True)
    for name in names:
        masks = sorted((root / "Annotations" / name).glob("*.png"))[:FRAMES]
        if len(masks) < FRAMES:
            raise SystemExit(f"{root / 'Annotations' / name} has {len(masks)} masks; {FRAMES} are needed.")
        for mask in masks:
            frame = root / "JPEGImages" / name / f"{mask.stem}.jpg"
            for source, kind in ((frame, "JPEGImages"), (mask, "Annotations")):
                target = out / kind / name / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def draw(runs: list[Path], out: Path) -> None:
    """J&F and the loss against the step, a line a run."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for run in runs:
        scores = read_lines(run / "train" / "validation" / "jf.jsonl")
        losses = read_lines(run / "train" / "curves.jsonl")
        precision = json.loads((run / "train" / "run.json").read_text())["config"]["trainer"]["precision"]
        precision = {"32-true": "fp32", "bf16-mixed": "bf16"}.get(precision, precision)
        left.plot([line[STEP] for line in scores], [line["val/jf"] for line in scores], marker="o", label=precision)
        right.plot([line[STEP] for line in losses], [line["train/total"] for line in losses], label=precision)
    left.axhline(90, color="grey", linewidth=0.8, linestyle="--")
    left.set(xlabel="step", ylabel="J&F of the two clips", xlim=(0, None), ylim=(50, 100))
    right.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend(loc="lower right")
    partial = out.with_name(f".{out.name}")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(out)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path("DAVIS"), help="folder with JPEGImages and Annotations")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"), help="folder of the run, or the picture of --draw")
    parser.add_argument("--clips", nargs=2, default=list(CLIPS), help="names of two sequences")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draw", type=Path, nargs="+", help="runs whose curves to draw into --out")
    return parser.parse_known_args()


if __name__ == "__main__":
    sys.exit(main())
