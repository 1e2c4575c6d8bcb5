"""The schema of every YAML key. Hydra composes, these dataclasses check, `build.py` builds.

Each field's docstring says what it is, in which unit, and where the default comes from. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CompressorConfig:
    """How a frame's memory becomes tokens (EdgeTAM Sec. 3.2, Tab. 3a, 3b, 3d)."""

    kind: str = "perceiver"
    """perceiver | pooling | none (Tab. 3a)."""
    global_latents: int = 256
    """N_g: latents that see the whole frame; 0 turns the branch off (Tab. 3b)."""
    spatial_latents: int = 256
    """N_l: latents that see one window each; 0, or a square whose root divides the memory grid (Tab. 3b)."""
    depth: int = 2
    """Eq. 5 and 6 are stacked this often (Sec. 4.1)."""
    self_attention: bool = True
    """Self-attention among latents (Tab. 3d)."""
    self_attention_2d: str = "released"
    """released: spatial latents attend to themselves only, as the released weights do; paper: to one another."""
    pool: int = 4
    """Side of the average-pooling window of kind=pooling (Tab. 3a: 4 x 4)."""


@dataclass
class ModelConfig:
    """One TrackAnything. The defaults are the released EdgeTAM."""

    name: str = "edgetam"
    """Name in the zoo; recorded in checkpoints."""
    image_size: int = 1024
    """S, side of the square input in pixels."""
    trunk: str = "repvit_m1"
    """repvit_m1 | sam2_hiera_{tiny,small,base_plus,large} | vit_{tiny,small} (plain ViT of EfficientTAM)."""
    trunk_args: dict[str, Any] = field(default_factory=dict)
    """Overrides of the trunk's own sizes, for toy models: e.g. embed_dim and depth of repvit_m1."""
    neck: str = "fpn"
    """fpn (SAM 2, EdgeTAM) | single (EfficientTAM: one level, no F4 and F8)."""
    dim: int = 256
    """C, model width."""
    memory_dim: int = 64
    """D, width of a memory token; C must be a multiple of it."""
    memory_blocks: int = 2
    """Blocks of memory attention (Tab. 3c; SAM 2 has 4)."""
    memory_ffn: int = 2048
    """Hidden width of memory attention's feed-forward."""
    cross_attention: str = "full"
    """full | landmarks (EfficientTAM _1: ln 4 on the logits) | landmarks_key (EfficientTAM _2: ln 4 on the pooled keys)."""
    compressor: CompressorConfig = field(default_factory=CompressorConfig)
    pointer_age: bool = False
    """SAM 2.1: signed sine of the pointer's age. Released EdgeTAM: zeros."""
    occlusion_embedding: bool = False
    """SAM 2.1: memories of absent objects get an embedding of their own (no_obj_embed_spatial)."""
    decoder_heads: int = 8
    """Heads of the mask decoder's attention."""
    decoder_mlp: int = 2048
    """Hidden width of the mask decoder's transformer MLP."""
    dropout: float = 0.1
    """In memory attention, training only (SAM 2 release)."""
    cross_attention_bias_init: float = 0.0
    """Initial bias of the cross-attention's queries and keys. With the rotation it makes every place look first at the
    same place in memory. 0 is PyTorch's own start, as in every release; a toy model with minutes to learn uses 3."""
    drop_path: float = 0.0
    """Stochastic depth of the trunk, training only (Table 5: none for EdgeTAM)."""


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
    dice: float = 1.0
    iou: float = 1.0
    presence: float = 1.0
    img: float = 1.0
    """gamma in Eq. 7, alpha in Eq. 8: distance of F16 to the teacher's."""
    mem: float = 1.0
    """beta in Eq. 8: distance of F_M to the teacher's."""


@dataclass
class OptimConfig:
    """AdamW and its schedule (Table 5)."""

    lr: float = 3e-4
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
    layer_decay: float = 1.0
    """Per-block decay of the trunk's learning rate; 1 for EdgeTAM (SAM 2: 0.8 to 0.925)."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 0.1
    """Global L2 norm at which gradients are clipped; 0 turns clipping off."""


@dataclass
class PhaseConfig:
    """One phase of the progressive schedule (Sec. 4.1: 8, then 16, then 32 frames)."""

    frames: int = 8
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

    name: str = "video"
    """image (stage 1, Eq. 7) | video (stage 2 and longer clips, Eq. 8)."""
    phases: list[PhaseConfig] = field(default_factory=lambda: [PhaseConfig()])
    max_objects: int = 3
    """Objects per clip at most."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distance: str = "mse"
    """Distance of L_img and L_mem: mse | cosine."""
    memory_frames: str = "recalled"
    """Frames on which L_mem counts: recalled (both models read their memory) | all (also where F_M is F16 plus each model's
    own constant)."""
    teacher_memory: str = "own"
    """What the teacher remembers: its own answers, or the student's masks (own | student)."""
    teacher_logits: str = "own"
    """What the teacher improves on when a click that corrected the student is replayed to it: its own last logits, or the
    student's (own | student)."""
    mask_size: int = 0
    """Side at which mask losses are computed; 0: the full input resolution."""
    candidates: str = "best"
    """best: of three candidate masks only the best is held to the truth (SAM 2); all: every one is."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights; 0 turns it off."""


@dataclass
class DataSource:
    """One set of shards in a mixture."""

    name: str = "toy"
    shards: str = ""
    """Folder with a manifest, a brace pattern, or a URL (http, s3, gs)."""
    kind: str = "video"
    """video | image: an image is a clip of one frame."""
    weight: float = 1.0
    """Share of batches that come from this source, relative to the others."""
    batch: int | None = None
    """Clips per batch of this source; null: the phase's."""
    max_objects: int | None = None
    """Objects per clip of this source; null: the stage's."""


@dataclass
class AugmentConfig:
    """Table 5's augmentation; whole clip first, then per frame. Images: flip only."""

    flip: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    brightness: float = 0.1
    contrast: float = 0.03
    saturation: float = 0.03
    grey: float = 0.05
    frame_brightness: float = 0.1
    frame_contrast: float = 0.05
    frame_saturation: float = 0.05
    reverse: float = 0.5
    """Probability that a clip is played backwards."""
    where: str = "worker"
    """worker: one warp a frame in the data workers, on the CPU; device: after the transfer, by torch."""


@dataclass
class DataConfig:
    """Where clips come from."""

    sources: list[DataSource] = field(default_factory=lambda: [DataSource()])
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    workers: int = 2
    """Loader processes per rank; 0: load in the training process."""
    shuffle: int = 64
    """Shards that are mixed at a time: samples are drawn at random from so many. Nothing is held in memory for it."""
    max_skips: float = 0.05
    """Stop when more than this share of samples (of at least 100) is broken."""


@dataclass
class LoggerConfig:
    """Where curves and pictures go."""

    kind: str = "wandb"
    """none | wandb. wandb is offline unless WANDB_MODE=online is set. curves.jsonl is written in any case."""
    project: str = "edgetam-pl"
    panels_every: int = 500
    """Steps between mask panels (frame, truth, student, teacher); 0: none."""
    log_every: int = 20
    """Steps between logged losses."""
    gradient_shares_every: int = 0
    """Steps between logs of each loss term's share in the loss and in the gradient; 0: never. A backward pass a term."""
    artifacts: bool = False
    """Upload checkpoints and export packages as W&B artifacts."""


@dataclass
class ValidationConfig:
    """Evaluation during training: a few clips, first-frame masks, J&F."""

    every: int = 0
    """Steps between evaluations; 0: never."""
    root: str = ""
    """A DAVIS-like folder, or toy[:seed[:clips]] for generated clips."""
    clips: int = 8
    """Clips per evaluation at most."""


@dataclass
class LauncherConfig:
    """Where a training runs: here (also under torchrun and srun), or as a SLURM job handed in through submitit."""

    kind: str = "local"
    """local | slurm."""
    nodes: int = 1
    tasks_per_node: int = 8
    """One a GPU."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """slurm: arguments of submitit's update_parameters, e.g. slurm_partition, timeout_min, cpus_per_task, mem_gb."""


@dataclass
class TrainConfig:
    """`edgetam train`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: ModelConfig | None = None
    """The same group, mounted a second time (model@teacher=...); null: no distillation."""
    stage: StageConfig = field(default_factory=StageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of lightning.Trainer, verbatim."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is written at the end of each phase in any case."""
    keep_checkpoints: int = 2
    """The newest ones are kept; the last of each phase is always kept."""
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
    """Stage 1 on small sets: folder where the teacher's F16 of each image, as it was augmented (a flip makes two), is kept
    in fp16, 2 MiB each at 1024 px. Empty: the teacher encodes every batch."""
    weights: str | None = None
    """Start from this checkpoint (ours or an official .pt)."""
    load_parts: str = "all"
    """all | images: image encoder, prompt encoder and mask decoder alone, as stage 1 trains them. Parts of memory then start
    anew, so models with different memories (Tab. 3) can share one stage 1."""
    trunk_weights: str | None = None
    """Start the trunk alone from pre-training, as the paper does (Table 5): timm's ImageNet RepViT-M1, or for a plain ViT
    the encoder of a masked autoencoder. A file; nothing is downloaded."""
    teacher_weights: str | None = None
    """The teacher's checkpoint; required when a teacher is named."""
    out: str = "runs/train"
    """Run directory: checkpoints, logs, exports."""
    seed: int = 123
    dry_run: bool = False
    """Build everything, print it, and stop."""
    export_on_end: bool = False
    """Export packages after the last phase."""


@dataclass
class TrialConfig:
    """`edgetam trial`: its own words begin with trial.; those that begin with evaluate., bench. and export. are words of
    these commands; all others are words of `edgetam train`."""

    format: int = 1
    """Version of the sweep file whose command this is."""
    start: str = "local"
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


@dataclass
class Tolerance:
    """How far a converted program may be from torch."""

    part: float = 1e-4
    """One part on given inputs: largest difference, as a share of the largest value of the output."""
    psnr: float = 80.0
    """One part: peak signal to noise in dB; the peak is the largest value of the output."""
    stored: float = 1e-4
    """One part, weights as they are stored but arithmetic in fp32: is the graph itself right?"""
    contrast: float = 0.02
    """What an input changes (an age, a label, the order of latents), against what it changes in torch; fp32 arithmetic."""
    step: float = 1e-3
    """Each frame of a rollout, torch given the programs' own bank: largest difference of features, candidate masks (before
    one is chosen), answer, memory and pointer, each as a share of its largest value."""
    step_psnr: float = 60.0
    """The same, in dB."""
    step_iou: float = 0.99
    """IoU of each answered mask with torch's, likewise."""
    free: float = 1e-3
    """The rollout left to itself, torch with a bank of its own: difference of the candidate masks, as a share."""
    iou: float = 0.99
    """The rollout left to itself: IoU of each answered mask with torch's."""


@dataclass
class GateConfig:
    """What converted programs must show before they get their final name."""

    frames: int = 64
    """Frames of the long rollout: a click, occlusion, exit and re-entry, corrections."""
    short_frames: int = 10
    """Frames of the rollouts from a box and from a mask: banks that are not yet full."""
    seed: int = 0
    """Of the clip, and of the inputs of the part by part check."""
    exact: Tolerance = field(default_factory=lambda: Tolerance())
    """For fp32 programs."""
    half: Tolerance = field(
        default_factory=lambda: Tolerance(
            part=5e-2, psnr=40, stored=1e-2, contrast=0.1, step=6e-2, step_psnr=40, step_iou=0.95, free=0.1, iou=0.95
        )
    )
    """For fp16 programs, every result rounded. 40 dB is Apple's own bar for a compiled model. Where attention is sharp,
    as in trained models, single tokens move by a few percent of the largest value while PSNR stays above 50 dB."""
    eight_bits: Tolerance = field(
        default_factory=lambda: Tolerance(
            part=0.1, psnr=30, stored=0.1, contrast=0.3, step=0.15, step_psnr=28, step_iou=0.85, free=0.4, iou=0.85
        )
    )
    """For compression=int8 and palette8."""
    few_bits: Tolerance = field(
        default_factory=lambda: Tolerance(
            part=0.4, psnr=20, stored=0.4, contrast=0.9, step=0.5, step_psnr=18, step_iou=0.7, free=0.8, iou=0.7
        )
    )
    """For compression=palette6 and palette4. Judge quality with evaluate, on trained weights."""
    amplification: float = 3.0
    """A loop feeds on its own answers, so some models amplify any rounding. Left to themselves, fp16 programs may be farther
    from torch than `free` and `iou` allow, if that is at most this many times as far as torch goes from itself when its
    weights are rounded to half precision; never below an IoU of 0.5. The report says so. 0: no excuse. The bounds of single
    steps know none."""
    adapters: float = 1e-4
    """The flat parts against the model's own verbs, both in fp32: share of the largest value."""
    largest: float = 6e4
    """No fp16 result of any operation may exceed this; the type ends at 65504."""
    pixels: int = 2
    """Masks that differ in at most this many pixels (at S/4) count as equal: the IoU of a few pixels says little."""
    tie: float = 0.02
    """Two candidates whose predicted IoUs differ by less may change places: torch then follows the program's choice."""
    presence_tie: float = 0.5
    """Within this of zero the presence logit may change its sign, with the same consequence."""


@dataclass
class ExportConfig:
    """`edgetam export`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    weights: str = ""
    """Checkpoint (ours or an official .pt), or `random` to exercise an architecture."""
    out: str = "runs/export"
    """Folder of the packages, written only when the gate has passed."""
    backend: str = "coreml"
    """coreml | onnx."""
    name: str = "EdgeTAM"
    """Prefix of the package names."""
    size: int = 0
    """Side of the square input in pixels, e.g. 512; 0: the model's own."""
    precision: str = "auto"
    """auto (Core ML fp16, ONNX fp32) | fp16 | fp32."""
    system: str = "ios17"
    """Oldest system that loads the packages: ios17 | ios18 (Core ML only)."""
    attention: str = "decomposed"
    """decomposed | fused (ios18): the fused operation has been reported wrong or crashing on some systems."""
    multifunction: bool = False
    """One package with a function per part and shared weights (ios18)."""
    compression: str = "none"
    """none | int8 | palette8 | palette6 | palette4 (ios18), of convolution and linear weights."""
    prompt_slots: int = 8
    """Points, and box corners, that a prompt may have."""
    num_memories: int = 7
    """Memory slots: prompted frames and the recent ones that still fit."""
    num_pointers: int = 16
    """Object pointer slots."""
    golden: bool = True
    """Write golden inputs and outputs, for validate_on_mac.py."""
    gate: GateConfig = field(default_factory=GateConfig)
    seed: int = 0
    """Of weights=random."""


@dataclass
class ShardsConfig:
    """`edgetam shards`: a data set as it is distributed, or your own folder, becomes shards."""

    recipe: str = ""
    """A file of shards/recipes, which knows source, split and how many videos to expect: sav | sa1b | davis17 | ..."""
    source: str = "toy"
    """davis | mose | ytvos | sav | sa1b | images | videos | toy."""
    root: str = ""
    """Folder of the data set; toy needs none."""
    out: str = "runs/shards"
    """Folder that receives shards and manifest. The same command continues where it stopped."""
    name: str = ""
    """Name of the data set in samples and logs; empty: the source's."""
    split: str = ""
    """Name of a list in the data set (train: ImageSets/2017/train.txt), or a file with one name a line; empty: all."""
    annotations: str = "manual"
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
    chroma: str = "420"
    """Chroma subsampling of frames that are encoded here: 420 | 422 | 444."""
    max_area: float = 0.9
    """Images: masks that cover more than this share are left out (SAM 2 paper)."""
    check: bool = True
    """Decode every frame once while building; without it only JPEG headers are read."""
    limit: int = 0
    """Take only the first so many videos or images; 0: all."""
    seed: int = 0
    """Order of videos in the shards, and the generated clips of toy."""
    processes: int = 0
    """Processes on this machine; 0: one a core."""
    engine: str = "local"
    """local | slurm: SLURM job arrays through submitit; the shards' folder must be visible to all nodes."""
    jobs: int = 16
    """slurm: jobs in the array."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """slurm: arguments of submitit's update_parameters, e.g. slurm_partition, timeout_min, cpus_per_task, mem_gb."""
    clips: int = 100
    """toy: clips to generate."""
    frames: int = 32
    """toy: frames of a clip; 1 makes images."""
    size: int = 128
    """toy: side of a frame in pixels."""
    objects: int = 3
    """toy: objects in a clip."""


@dataclass
class EvaluateConfig:
    """`edgetam evaluate`: one protocol on one data set. The same command continues where it was interrupted."""

    model: ModelConfig = field(default_factory=ModelConfig)
    weights: str = ""
    """Checkpoint (ours or an official .pt), or `random` for a model that has learned nothing."""
    protocol: str = "vos"
    """vos (masks on first frames) | first_frame (Table 4: prompt=...) | pvs_online | pvs_offline (Fig. 5) | sa (Segment
    Anything, Table 1) | repeat (no model: the first mask on every frame)."""
    prompt: str = "mask"
    """first_frame: mask | box | 1-click | 3-click | 5-click."""
    dataset: str = "folder"
    """davis16 | davis17 | mose | sav | ytvos19 | lvos | vost | pumavos | folder (laid out as DAVIS) | images | toy."""
    root: str = ""
    """Folder of the data set; for toy nothing, or toy:SEED:CLIPS."""
    split: str | None = None
    """List of sequences, below the root or anywhere; null: the one the data set comes with, else all."""
    sequences: list[str] = field(default_factory=list)
    """These sequences alone."""
    limit: int = 0
    """The first so many sequences; 0: all."""
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
    precision: str = "auto"
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
    dtype: str = "float32"
    """float32 | bfloat16 | float16: type of autocast."""
    fuse: bool = True
    """Merge RepViT's branches, BatchNorms, and the neck's projections."""
    channels_last: bool = True
    """Channels innermost in images and weights."""
    compile: str = "none"
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
