"""The contract with the app, as JSON next to the packages: names, shapes, coordinates, bank policy, hashes, parity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from edgetam_pl.io.atomic import write_json

FORMAT = "edgetam-pl/export/1"
FILE = "manifest.json"

SIDES = ("inputs", "outputs", "states")
"""Of a part's tensors."""

NOT_ON_APPLE = "not run on Apple hardware"


def read_yaml(name: str) -> dict[str, Any]:
    """A table of `templates`."""
    return yaml.safe_load(files("edgetam_pl.exporting").joinpath(f"templates/{name}.yaml").read_text("utf-8"))


RULES: Mapping[str, str] = read_yaml("rules")
"""The loop as text. The client in `client.py` is the same, executable."""


@dataclass(frozen=True)
class RuntimeSpec:
    """All that a client needs to run the packages: sizes, bank, and the few numbers that live outside them."""

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
    states: tuple[FeatureEntry, ...] = ()
    """Tensors that the runtime keeps from one call to the next: the program reads them and writes into them."""


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
    """The loop as text: frames, prompts, choice, bank."""
    model: Mapping[str, Any]
    """Configuration of the model."""
    checkpoint: str
    checkpoint_sha256: str
    versions: Mapping[str, str]
    thresholds: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of this format alone, where they were given."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, Any] = field(default_factory=dict)
    apple_hardware: str = NOT_ON_APPLE

    def part(self, role: str) -> PartEntry:
        for entry in self.parts:
            if entry.role == role:
                return entry
        raise ValueError(f"the manifest has no part {role!r}; it has {[entry.role for entry in self.parts]}.")


def write(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.json` into `folder`, whole or not at all."""
    return write_json(folder / FILE, dataclasses.asdict(manifest), indent=1)


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
    parts = []
    for entry in data["parts"]:
        sides = {side: tuple(_build(FeatureEntry, f, path) for f in entry[side]) for side in SIDES if side in entry}
        parts.append(_build(PartEntry, entry | sides, path))
    return _build(Manifest, data | {"loop": _build(RuntimeSpec, data["loop"], path), "parts": tuple(parts)}, path)


def _build(kind: type[Any], data: Mapping[str, Any], path: Path) -> Any:
    if unknown := sorted(set(data) - {entry.name for entry in dataclasses.fields(kind)}):
        raise ValueError(f"{path}: {kind.__name__} has unknown entries {unknown}; export again with this version.")
    try:
        return kind(**{name: _tuples(value) for name, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{path}: {kind.__name__} is incomplete ({error}); export again.") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
