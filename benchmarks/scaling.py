"""How the cost of a tracked frame and of a training step grows: with frames, objects, resolution and latents.

    python benchmarks/scaling.py --plot docs/scaling.png

A tracked frame is EdgeTAM's with a full bank; a step is the student's, forward, losses and backward, without a teacher, with
masks as prompts. One quantity grows at a time, the others stay as in START. Cost is processor time, the median of --rounds
calls; its growth is written as an exponent, the slope of a line through the logarithms (1: twice as much costs twice that).
Beside it stands the exponent of the FLOPs that `edgetam plan` counts for the same configurations.
Runs on a CPU; not run on a GPU. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_step
from matplotlib.figure import Figure

from edgetam_pl.build import build_model
from edgetam_pl.commands import bench, plan, show
from edgetam_pl.config import (
    BenchConfig,
    CompressorConfig,
    ModelConfig,
    PhaseConfig,
    PromptConfig,
    StageConfig,
    TrainConfig,
)
from edgetam_pl.inference.lean_layers import use_lean_layers
from edgetam_pl.inference.onednn import use_onednn
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.types import VERBS

Grid = dict[str, tuple[int, ...]]

FRAME: Grid = {"objects": (1, 2, 4), "resolution": (256, 512, 1024), "latents": (32, 128, 512)}
STEP: Grid = {"frames": (2, 4, 8), "objects": (1, 2, 4), "resolution": (256, 512), "latents": (32, 128, 512)}
START = {"frames": 4, "objects": 1, "resolution": 256, "latents": 512}
"""What stays while another quantity grows. Half of the latents are global, half spatial, as in the paper."""


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    rows = [
        _row(what, name, values, args.rounds)
        for what, grid in (("tracked frame", FRAME), ("training step", STEP))
        for name, values in grid.items()
    ]
    print(f"{'':<15}{'grows':<12}{'exponent':>9}{'plan':>7}   milliseconds")
    for row in rows:
        costs = ", ".join(f"{value}: {cost:.0f}" for value, cost in zip(row["values"], row["ms"]))
        print(f"{row['what']:<15}{row['grows']:<12}{row['exponent']:>9.2f}{row['plan']:>7.2f}   {costs}")
    if args.plot:
        _plot(rows, args.plot)
    print(json.dumps({"benchmark": "scaling", "start": START, "machine": bench.machine(torch.device("cpu")), "rows": rows}))
    return 0


def _row(what: str, name: str, values: tuple[int, ...], rounds: int) -> dict[str, Any]:
    cost = _frame if what == "tracked frame" else _step
    found = [cost(**(START | {name: value}), rounds=rounds) for value in values]
    counted = [_counted(what, **(START | {name: value})) for value in values]
    print(f"{what}, {name}: {found}", file=sys.stderr)
    return {
        "what": what, "grows": name, "values": values, "ms": [round(x, 1) for x in found],
        "exponent": _slope(values, found), "plan": _slope(values, counted),
    }  # fmt: skip


def _slope(values: tuple[int, ...], costs: list[float]) -> float:
    return round(float(np.polyfit(np.log(values), np.log(costs), 1)[0]), 2)


def _counted(what: str, *, frames: int, objects: int, resolution: int, latents: int) -> float:
    """FLOPs as `edgetam plan` counts them."""
    with torch.device("meta"):
        model = build_model(_model(resolution, latents))
    if what == "tracked frame":
        return sum(verb.flops * (1 if verb.name == "encode" else objects) for verb in show.verbs(model))
    phase = PhaseConfig(frames=frames, steps=10, distil=False)
    masks = PromptConfig(point_prob=0.0, box_prob=0.0, max_prompted_frames=1)
    cfg = TrainConfig(stage=StageConfig(phases=[phase], max_objects=objects, prompts=masks))
    nothing = plan.Kept(dict.fromkeys(VERBS, 0.0), 0.0, 0.0)
    cost = plan._cost(cfg, phase, cfg.data.sources[0], plan._flops(model)(frames), {}, nothing)
    return sum(cost.flops.values())


def _model(resolution: int, latents: int) -> ModelConfig:
    compressor = CompressorConfig(global_latents=latents // 2, spatial_latents=latents // 2)
    return ModelConfig(image_size=resolution, compressor=compressor)


def _frame(*, frames: int, objects: int, resolution: int, latents: int, rounds: int) -> float:
    """Milliseconds of a tracked frame; how many came before does not matter, the bank is full."""
    cfg = BenchConfig(model=_model(resolution, latents), warmup=1, repeats=rounds)
    tracker, image = bench._tracker(cfg, torch.device("cpu")), bench._picture(cfg, torch.device("cpu"))
    return bench.measure(tracker, image, count=objects, cfg=cfg)["step"]["processor"]


def _step(*, frames: int, objects: int, resolution: int, latents: int, rounds: int) -> float:
    """Milliseconds of a training step."""
    torch.manual_seed(0)
    student = build_model(_model(resolution, latents)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_lean_layers(student)
    use_onednn(student, trained=True)
    module = Distillation(student, stage=StageConfig(phases=[PhaseConfig(frames=frames, steps=10)])).train()
    sizes = argparse.Namespace(frames=frames, objects=objects, size=resolution, device="cpu")
    batch = train_step._clip(sizes)
    spent = []
    for _ in range(1 + rounds):
        begin = time.process_time()
        train_step.our_step(module, batch, train_step._prompter(sizes, "masks", batch)).backward()
        spent.append(1000 * (time.process_time() - begin))
        module.zero_grad()
    return statistics.median(spent[1:])


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, what in zip(axes, ("tracked frame", "training step")):
        for row in (row for row in rows if row["what"] == what):
            growth, cost = np.array(row["values"]) / row["values"][0], np.array(row["ms"]) / row["ms"][0]
            axis.loglog(growth, cost, marker="o", label=f"{row['grows']}: {row['exponent']:.2f}")
        axis.set(title=what, xlabel="times as much", ylabel="times the cost")
        axis.legend(title="exponent")
    figure.savefig(path, dpi=120)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--plot", type=Path, default=None, help="write the curves to this picture")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
