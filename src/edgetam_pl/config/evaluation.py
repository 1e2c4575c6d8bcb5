"""Measuring a model: accuracy, latency, size."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetam_pl.config.choices import choice
from edgetam_pl.config.model import ModelConfig


@dataclass
class EvaluateConfig:
    """`edgetam evaluate`: one protocol on one data set. The same command continues where it was interrupted."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, by its configuration; model=NAME takes one of the zoo."""
    weights: str = ""
    """Checkpoint (ours or an official .pt), a release by name (edgetam), `shipped`, or `random` for a model that has learned
    nothing."""
    protocol: str = "vos"
    """vos (masks on first frames) | first_frame (Table 4: prompt=...) | pvs_online | pvs_offline (Fig. 5) | sa (Segment
    Anything, Table 1) | repeat (no model: the first mask on every frame)."""
    prompt: str = "mask"
    """first_frame: mask | box | 1-click | 3-click | 5-click."""
    dataset: str = "folder"
    """davis16 | davis17 | mose | sav | ytvos19 | lvos | vost | pumavos | folder (laid out as DAVIS, or your own
    videos/NAME.mp4 and masks/NAME/00000.png) | images | coco | labelme | toy."""
    root: str = ""
    """Folder of the data set; for toy nothing, or toy:SEED:CLIPS."""
    split: str | None = None
    """List of sequences, below the root or anywhere; null: the one the data set comes with, else all."""
    sequences: list[str] = field(default_factory=list)
    """These sequences alone."""
    limit: int = 0
    """The first so many sequences; 0: all."""
    categories: str = ""
    """coco, labelme: only objects of these categories, with commas between (person,dog); empty: all."""
    unseen: str | None = None
    """List of categories or sequences that count as unseen, for G (YouTube-VOS, LVOS)."""
    every: int = 1
    """sa on videos: every n-th annotated frame is an image."""
    strict: bool = True
    """A sequence without frames or masks is an error; otherwise it is left out, and the report says so."""
    clicks: int = 3
    """PVS: clicks on each prompted frame. sa: 5 are given, whatever this says."""
    rounds: int = 8
    """PVS: prompted frames at most."""
    threshold: float = 0.75
    """PVS online: frames whose IoU is below this are corrected."""
    corrected_are_prompted: bool = True
    """PVS: corrected frames become prompted ones, as in training; false: as in SAM 2's released predictor."""
    skip_first_and_last: bool | None = None
    """Leave out the first and last annotated frame; null: as the data set has it (PVS and sa: all frames count)."""
    non_overlap: bool | None = None
    """A pixel has one object, in answers only; null: as the data set has it."""
    out: str = ""
    """Folder of report.html, report.json, result.json, pictures and predictions; empty: one below runs/evaluate."""
    label: str = ""
    """The row of experiments/README.md that this result belongs to, e.g. tab3a_pooled; empty: the model's name."""
    cache: str = "runs/evaluate/cache"
    """Finished sequences, by weights, protocol and data; shared by all evaluations."""
    fresh: bool = False
    """Do not use finished sequences."""
    export: bool = False
    """Write predictions as the data set's server takes them (vos, first_frame): out/predictions."""
    pictures: bool = True
    """Frame, truth, prediction and error of each sequence."""
    device: str = "auto"
    """auto | cpu | mps | cuda | cuda:0,cuda:1 (one process each)."""
    precision: str = choice("auto", "fp32", "bf16")
    """auto (bfloat16 on CUDA, as published results; else fp32) | fp32 | bf16."""
    workers: int = 1
    """Processes on this machine. Under torchrun, ranks share the sequences instead."""
    threads: int = 0
    """Threads of PyTorch in each process; 0: the cores, divided by the processes."""
    seed: int = 0
    """Of weights=random."""


@dataclass
class BenchConfig:
    """`edgetam bench`: latency by verb, as the paper's Fig. 2, on a full memory bank."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, by its configuration; model=NAME takes one of the zoo."""
    weights: str | None = None
    """Checkpoint; null: random weights, which take the same time."""
    device: str = "cpu"
    """cpu | cuda | cuda:1 ... | mps."""
    threads: int = 1
    """Threads of PyTorch on a CPU; 0: as many as it likes."""
    objects: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of objects to measure; image features are shared by all of them."""
    warmup: int = 2
    """Untimed calls of each verb."""
    repeats: int = 10
    """Timed calls of each verb."""
    dtype: str = choice("float32", "bfloat16", "float16")
    """float32 | bfloat16 | float16: type of autocast."""
    fuse: bool = True
    """Merge RepViT's branches, BatchNorms, and the neck's projections."""
    channels_last: bool = True
    """Channels innermost in images and weights."""
    compile: str = choice("none", "attention", "all")
    """none | attention | all (torch.compile)."""
    cuda_graphs: bool = False
    """Record each verb and replay it (CUDA only)."""
    batch_objects: bool = True
    """All objects in one call; false: one call each."""
    out: str | None = None
    """File for the result, JSON; null: only printed."""
    seed: int = 0
    """Of random weights and of the picture."""


@dataclass
class ShowConfig:
    """`edgetam show`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, by its configuration; model=NAME takes one of the zoo."""
