"""Packages for other runtimes, and what they must show first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgetam_pl.config.choices import choice
from edgetam_pl.config.model import ModelConfig


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
    """The model, by its configuration; model=NAME takes one of the zoo."""
    weights: str = ""
    """Checkpoint (official, Hugging Face's, or ours), a release by name (edgetam), `shipped`, or `random` to exercise an
    architecture. Without model=, the model that it records."""
    out: str = "runs/export"
    """Folder of the packages, written only when the gate has passed."""
    backend: str = "coreml"
    """Format of the packages, by its name in exporting/backends.py: coreml | coreai | executorch | onnx."""
    target: str = choice("packages", "web")
    """packages | web (backend=onnx): a folder with a page that tracks in the browser, for any static server."""
    ort_web: str = ""
    """Folder of onnxruntime-web, for target=web; empty: the one in node_modules, as node would find it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that one format alone has, as +options.KEY=VALUE: bank=inputs | state (Core AI), delegate=xnnpack | coreml
    (ExecuTorch), int8=dynamic | weights (LiteRT)."""
    name: str = "EdgeTAM"
    """Prefix of the package names."""
    size: int = 0
    """Side of the square input in pixels, e.g. 512; 0: the model's own."""
    precision: str = choice("auto", "fp16", "fp32")
    """auto (Core ML and Core AI fp16, others fp32) | fp16 | fp32."""
    system: str = "ios17"
    """Oldest system that loads the packages: ios17 | ios18 (Core ML only)."""
    attention: str = choice("decomposed", "fused")
    """decomposed | fused (ios18): the fused operation has been reported wrong or crashing on some systems."""
    multifunction: bool = False
    """One package with a function per part and shared weights (Core ML from ios18; Core AI)."""
    compression: str = choice("none", "int8", "palette8", "palette6", "palette4")
    """Of convolution and linear weights: none | int8; Core ML and Core AI also palette8 | palette6 | palette4 (ios18)."""
    prompt_slots: int = 8
    """Points, and box corners, that a prompt may have."""
    num_memories: int = 7
    """Memory slots: prompted frames and the recent ones that still fit."""
    num_pointers: int = 16
    """Object pointer slots."""
    golden: bool = True
    """Write golden inputs and outputs, for validate_on_mac.py (not with target=web)."""
    gate: GateConfig = field(default_factory=GateConfig)
    """What the packages must show."""
    witnesses: list[str] = field(default_factory=list)
    """Other formats whose runtimes run the same model over the same rollouts, e.g. [coreai,onnx]; the report shows how far
    all are from torch and from each other. It judges nothing."""
    seed: int = 0
    """Of weights=random."""
    dry_run: bool = False
    """Load the weights, check target, tools and folder, say what would be written, and stop."""
