"""The contract with the app, as JSON beside the packages: names, shapes, coordinates, bank policy, hashes, parity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "edgetam-pl/export/1"
FILE = "manifest.json"


@dataclass(frozen=True)
class RuntimeSpec:
    """All that a client must know to play the packages: sizes, bank, and the few numbers that live outside them."""

    size: int
    """S: frames are stretched to S x S pixels, RGB; aspect ratio is not kept, no letterbox."""
    dim: int
    """C, width of features and pointers."""
    memory_dim: int
    tokens: int
    """Tokens that one frame's memory has."""
    memory_grid: tuple[int, int]
    """The last h * w tokens of a memory lie on this grid."""
    num_memories: int
    """Memory slots of TrackStep."""
    num_pointers: int
    """Pointer slots of TrackStep."""
    recent_memories: int
    """Unprompted frames are read as memories up to this many frames back."""
    recent_pointers: int
    """Unprompted frames are read as pointers up to this many frames back."""
    prompt_slots: int
    high_res: bool
    """Are there feats_s0 and feats_s1? (EfficientTAM has none.)"""
    pointer_ages: bool
    """Does TrackStep want the age of each pointer (SAM 2.1)?"""
    memory_needs_presence: bool
    """Does MemoryEncoder want obj_score (SAM 2.1)?"""
    mask_kernel: tuple[tuple[float, ...], ...]
    """4 x 4 kernel, stride 4: turns a given S x S mask (0 or 1) into mask_input. For mask prompts only."""
    mask_bias: float
    absent_pointer: tuple[float, ...]
    """Pointer of an object whose given mask is empty."""
    absent_logit: float
    given_logit: float

    @property
    def low(self) -> int:
        """Side of masks."""
        return self.size // 4

    @property
    def feature(self) -> int:
        """Side of F16."""
        return self.size // 16


@dataclass(frozen=True)
class FeatureEntry:
    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str


@dataclass(frozen=True)
class PartEntry:
    """One program."""

    name: str
    role: str
    file: str
    function: str | None
    compute_units: str
    bytes: int
    sha256: str
    inputs: tuple[FeatureEntry, ...]
    outputs: tuple[FeatureEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds."""

    format: str
    name: str
    backend: str
    precision: str
    system: str
    attention: str
    compression: str
    loop: RuntimeSpec
    parts: tuple[PartEntry, ...]
    rules: Mapping[str, str]
    """The loop in words, for people: frames, prompts, choice, bank."""
    model: Mapping[str, Any]
    """Configuration of the model."""
    checkpoint: str
    checkpoint_sha256: str
    versions: Mapping[str, str]
    thresholds: Mapping[str, Any]
    parity: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, Any] = field(default_factory=dict)
    apple_hardware: str = "not run on Apple hardware"

    def part(self, role: str) -> PartEntry:
        for entry in self.parts:
            if entry.role == role:
                return entry
        raise ValueError(f"the manifest has no part {role!r}; it has {[entry.role for entry in self.parts]}.")


RULES = {
    "frames": (
        "Stretch the frame to S x S, RGB, 0 ... 255 (Core ML: a CVPixelBuffer). Normalisation is inside ImageEncoder. "
        "Run ImageEncoder once per frame, whatever the number of objects."
    ),
    "coordinates": (
        "Points are (x, y) in pixels of the S x S frame, from its top left corner. Masks are logits at S/4; above 0 "
        "is the object."
    ),
    "prompts": (
        "labels: 1 foreground, 0 background, 2 and 3 box corners (top left, bottom right), -2 slot not in use. A box "
        "takes two slots, and comes first. -1 is SAM's not-a-point token: pass it in slot 0, alone, when there are no "
        "points. mask_input with has_mask=1: the previous logits of this object, clamped to +-32, when clicks correct "
        "an answer; otherwise has_mask=0."
    ),
    "first_prompt": (
        "A frame prompted before it was tracked starts afresh: PromptDecoder on image_embedding of ImageEncoder, no "
        "memory. A correction of a tracked frame: PromptDecoder on image_embedding of TrackStep, all clicks so far, "
        "previous logits."
    ),
    "choice": (
        "PromptDecoder returns 4 masks. At most one label in use, counting a box as two: the one of masks 1 ... 3 "
        "with the highest iou_scores. Otherwise mask 0. Take obj_ptrs at the same index. TrackStep has chosen "
        "already."
    ),
    "presence": (
        "obj_score <= 0: the object is not in the frame. Show nothing, and pass absent_logit everywhere as "
        "mask_logits to MemoryEncoder. PromptDecoder's masks are raw; its pointers, and everything that TrackStep "
        "returns, already take absence into account."
    ),
    "mask_prompt": (
        "A given mask M (S x S, 0 or 1) is the answer: logits are given_logit * (2 M - 1), resized to S/4 "
        "(antialiased bilinear). Its pointer: PromptDecoder on vision_features, labels -1, -2, -2 ..., has_mask=1, "
        "mask_input = M convolved with mask_kernel (4 x 4, stride 4) plus mask_bias; obj_ptrs[0]. If M is empty: "
        "absent_pointer."
    ),
    "memory": (
        "After a prompted or corrected frame: MemoryEncoder on vision_features and the answer's logits. After a "
        "tracked frame: memory_out of TrackStep. binarize=1 is SAM 2's demo setting for prompted frames; its "
        "benchmarks, and the parity numbers here, use 0."
    ),
    "bank": (
        "Per object: num_memories slots and num_pointers slots, in any order; attention does not see the order. To "
        "store frame t: its own slot if it has one, else an empty slot, else the slot of the farthest unprompted "
        "frame, else (t prompted) that of the farthest prompted frame. At frame t, memory_age is 0 for prompted "
        "frames, t - i for an unprompted frame i if 1 <= t - i <= recent_memories, else -1. obj_ptr_valid is 1 for "
        "prompted frames i <= t and for unprompted frames with 1 <= t - i <= recent_pointers, else 0. What an unused "
        "slot holds does not matter, as long as it is finite. Tracking backwards: mirror the signs."
    ),
    "pointer_ages": "Only if pointer_ages is true: obj_ptr_age is t - i, signed, in frames; mirrored backwards.",
}
"""The loop in words. The client in `client.py` is the same, executable."""


def write(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.json` into `folder`, whole or not at all."""
    path = folder / FILE
    draft = folder / (FILE + ".tmp")
    draft.write_text(json.dumps(dataclasses.asdict(manifest), indent=1, allow_nan=True) + "\n", encoding="utf-8")
    os.replace(draft, path)
    return path


def read(folder: str | Path) -> Manifest:
    """Read a manifest back.

    Raises:
        ValueError: there is none, it is of another format, or an entry is missing or unknown.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {FILE}; it is not a folder that edgetam export has written.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); export again.") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has the format {found!r}; this version reads {FORMAT!r}. Export again.")
    data["loop"] = _build(RuntimeSpec, data["loop"], path)
    data["parts"] = tuple(
        _build(
            PartEntry,
            {
                **entry,
                "inputs": tuple(_build(FeatureEntry, feature, path) for feature in entry["inputs"]),
                "outputs": tuple(_build(FeatureEntry, feature, path) for feature in entry["outputs"]),
            },
            path,
        )
        for entry in data["parts"]
    )
    return _build(Manifest, data, path)


def sha256_of(path: Path) -> str:
    """Hash of a file, or of what matters in a package: a .mlpackage's own manifest has new random names with every save."""
    digest = hashlib.sha256()
    if path.is_file():
        files = [path]
    else:
        files = sorted(each for each in path.rglob("*") if each.is_file() and each.name != "Manifest.json")
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def bytes_of(path: Path) -> int:
    """Size on disk of a file, or of all files of a package."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _build(kind: type[Any], data: Mapping[str, Any], path: Path) -> Any:
    known = {entry.name for entry in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - known):
        raise ValueError(f"{path}: {kind.__name__} has unknown entries {unknown}; export again with this version.")
    try:
        return kind(**{name: _tuples(value) for name, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{path}: {kind.__name__} is incomplete ({error}); export again.") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
