"""Where clips come from: mixtures of shards, their augmentation, and how shards are built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgetam_pl.config.choices import choice


@dataclass
class DataSource:
    """One set of shards in a mixture."""

    name: str = "toy"
    """Of the data set, in logs and reports."""
    shards: str = ""
    """Folder with a manifest, a brace pattern, or a URL (http, s3, gs)."""
    kind: str = choice("video", "image")
    """video | image: an image is a clip of one frame."""
    weight: float = 1.0
    """Share of batches that come from this source, relative to the others."""
    batch: int | None = None
    """Clips per batch of this source; null: the phase's."""
    max_objects: int | None = None
    """Objects per clip of this source; null: the stage's."""
    max_step: int = 1
    """Largest step from one frame of a clip to the next: a step up to it is drawn for each clip, as far as its video is long
    enough (STM, STCN). 1: consecutive frames (SAM 2 release)."""


@dataclass
class AugmentConfig:
    """Table 5's augmentation; whole clip first, then per frame. Images: flip only."""

    flip: float = 0.5
    """Probability of a horizontal flip, once a clip (Table 5)."""
    degrees: float = 25.0
    """Largest rotation, either way, once a clip (Table 5)."""
    shear: float = 20.0
    """Largest shear in degrees, either way, once a clip (Table 5)."""
    brightness: float = 0.1
    """Largest relative change of brightness, drawn once a clip (Table 5)."""
    contrast: float = 0.03
    """Largest relative change of contrast, drawn once a clip (Table 5)."""
    saturation: float = 0.03
    """Largest relative change of saturation, drawn once a clip (Table 5)."""
    grey: float = 0.05
    """Probability that a clip is grey (Table 5)."""
    frame_brightness: float = 0.1
    """Largest relative change of brightness, drawn once a frame (Table 5)."""
    frame_contrast: float = 0.05
    """Largest relative change of contrast, drawn once a frame (Table 5)."""
    frame_saturation: float = 0.05
    """Largest relative change of saturation, drawn once a frame (Table 5)."""
    reverse: float = 0.5
    """Probability that a clip is played backwards."""
    zoom: float = 0.0
    """Largest relative growth of a clip's pictures from the first frame to the last, or from the last to the first: with 1,
    objects become up to twice as wide. 0: none (Table 5)."""
    where: str = choice("worker", "device")
    """worker: one warp a frame in the data workers, on the CPU; device: after the transfer, by torch."""


@dataclass
class DataConfig:
    """Where clips come from."""

    sources: list[DataSource] = field(default_factory=lambda: [DataSource()])
    """Sets of shards that are mixed."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What is done to clips at random."""
    workers: int = 2
    """Loader processes per rank; 0: load in the training process."""
    shuffle: int = 64
    """Shards that are mixed at a time: samples are drawn at random from so many. Nothing is held in memory for it."""
    lanes: int | None = None
    """Parts into which the samples of a source are cut for good, one for each place of a large batch, so that the ranks of a
    machine read the same part in each epoch; each part is then shuffled as a whole. 0: none. null: 512 for a source of 2048
    shards or more, none for a smaller one."""
    read_ahead: int = 16
    """Samples that each worker reads ahead from servers, while it decodes others. Shards on disks need none."""
    cache: str = ""
    """Folder on a local disk in which all processes of a machine keep what they read from servers; empty: none."""
    cache_gb: float = 100.0
    """Gigabytes that the cache may take; what was stored longest ago leaves first."""
    read_timeout: float = 30.0
    """Seconds that a read from a server may take, and one more for each megabyte, before it is tried again. A shard is left
    out after four attempts."""
    antialias: bool = False
    """Shrink frames as SAM 2's training does (Pillow, antialiased) before they are warped, not by the warp itself, which
    skips pixels where a frame is larger than the input. Costs processor time in the workers: docs/training.md."""
    max_skips: float = 0.05
    """Stop when more than this share of samples (of at least 100) is broken."""


@dataclass
class ShardsConfig:
    """`edgetam shards`: a data set as it is distributed, or your own folder, becomes shards."""

    recipe: str = ""
    """A file of shards/recipes, which knows source, split and how many videos to expect: sav | sa1b | davis17 | ..."""
    source: str = ""
    """davis | mose | ytvos | sav | sa1b | coco | labelme | images | videos | pasted (images become clips) | toy."""
    root: str = ""
    """Folder of the data set; toy needs none. pasted takes several, A:B:C."""
    out: str = ""
    """Folder, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, that receives shards and manifest; empty: runs/shards/ and the
    name of the recipe or data set. The same command continues where it stopped."""
    name: str = ""
    """Name of the data set in samples and logs; empty: the source's."""
    split: str = ""
    """Name of a list in the data set (train: ImageSets/2017/train.txt), or a file with one name a line; empty: all."""
    annotations: str = choice("manual", "auto", "both")
    """SA-V: manual | auto | both."""
    every: int = 4
    """SA-V and videos: every n-th frame of the mp4 is annotated (SA-V: 24 FPS video, 6 FPS masks)."""
    window: int = 32
    """Frames of a sample at most; as many as the longest phase."""
    stride: int = 16
    """Frames between the starts of windows; below `window` they overlap, so that every stretch of 8 frames is in one."""
    group: int = 0
    """Videos (or images) of one shard; 0: 16 videos or 1000 images."""
    short_side: int = 0
    """Shrink larger frames to this shorter side in pixels; 0: keep them as they are."""
    quality: int = 92
    """JPEG quality of frames that are encoded here (from mp4, PNG, or after shrinking); JPEG files are kept byte by byte."""
    chroma: str = choice("420", "422", "444")
    """Chroma subsampling of frames that are encoded here: 420 | 422 | 444."""
    max_area: float = 0.9
    """Images: masks that cover more than this share are left out (SAM 2 paper)."""
    categories: str = ""
    """coco, labelme: only objects of these categories, with commas between (person,dog); empty: all."""
    check: bool = True
    """Decode every frame once while building; without it only JPEG headers are read."""
    limit: int = 0
    """Take only the first so many videos or images; 0: all."""
    seed: int = 0
    """Order of videos in the shards, and the generated clips of toy."""
    processes: int = 0
    """Processes on this machine; 0: one a core."""
    engine: str = choice("local", "slurm")
    """local | slurm: SLURM job arrays through submitit; the shards' folder must be visible to all nodes."""
    jobs: int = 16
    """slurm: jobs in the array."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """slurm: arguments of submitit's update_parameters, e.g. slurm_partition, timeout_min, cpus_per_task, mem_gb."""
    clips: int = 100
    """toy, pasted: clips to make."""
    frames: int = 32
    """toy, pasted: frames of a clip; toy: 1 makes images."""
    size: int = 128
    """toy: side of a frame in pixels; pasted: its shorter side."""
    objects: int = 3
    """toy: objects in a clip; pasted: at most."""
    twins: float = 0.15
    """pasted: probability that an object is the one before it once more, so that looks alone do not tell them apart."""
    growth: float = 1.35
    """pasted: how many times larger or smaller than in the middle of its path an object becomes at most."""
