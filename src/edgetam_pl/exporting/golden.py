"""Golden inputs and outputs: torch's answers, in files that need no torch to be read. `validate_on_mac.py` plays them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgetam_pl.exporting.clip import CheckClip, scenarios
from edgetam_pl.exporting.gate.check import Case
from edgetam_pl.exporting.gate.rollouts import Expected
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.types import Prompts

FOLDER = "golden"
KEPT_CASES = {
    "image_encoder": ("frame 0",),
    "prompt_decoder": ("click", "box", "click and previous mask"),
    "memory_encoder": ("frame 0, mask",),
    "track_step": ("one memory", "full bank"),
}
"""Cases that travel with the packages; each brings maps of several MB at full size."""

Arrays = dict[str, np.ndarray]


def write_golden(
    folder: Path,
    cases: Sequence[Case],
    clip: CheckClip,
    expected: Sequence[Expected],
    *,
    short_frames: int,
    half: bool = True,
) -> None:
    """Write `golden/` into `folder`: cases of every part, and the rollouts with torch's answers.

    Args:
        cases: of the part by part check; only `KEPT_CASES` are written.
        clip, short_frames: of the rollouts.
        half: store maps in fp16. Its rounding is small next to the bounds of fp16 packages, and large next to those of fp32.
    """
    target = folder / FOLDER
    target.mkdir()
    arrays: Arrays = {}
    _write(target, "cases", _case_index(cases, arrays, half), arrays)
    arrays = {"frames": clip.small.numpy()}
    _write(target, "rollouts", _rollout_index(clip, short_frames, expected, arrays), arrays)


def _case_index(cases: Sequence[Case], arrays: Arrays, half: bool) -> dict[str, list[dict[str, Any]]]:
    """cases.json names arrays of cases.npz; equal arrays are stored once."""
    index: dict[str, list[dict[str, Any]]] = {role: [] for role in KEPT_CASES}
    for case in cases:
        if case.name in KEPT_CASES[case.role]:
            sides = {"inputs": case.inputs, "outputs": case.truths[0]}
            named = {
                side: {name: _keep(arrays, x, name, half) for name, x in tensors.items()} for side, tensors in sides.items()
            }
            index[case.role].append({"name": case.name, **named})
    return index


def _rollout_index(clip: CheckClip, short_frames: int, expected: Sequence[Expected], arrays: Arrays) -> dict[str, Any]:
    """rollouts.json: the prompts of each frame; rollouts.npz: small frames, given masks, and torch's logits per answer."""
    rollouts = []
    for scenario in scenarios(clip, short_frames=short_frames):
        answers = [answer for answer in expected if answer.rollout == scenario.name]
        arrays[f"{scenario.name}/logits"] = np.concatenate([answer.logits.numpy() for answer in answers])
        entries = {
            str(t): [_entry(prompts, arrays, f"{scenario.name}/{t}/{i}", clip.factor) for i, prompts in enumerate(given)]
            for t, given in scenario.entries.items()
        }
        kept = [{"frame": a.frame, "presence": a.presence, "iou": a.iou, "least_iou": a.least_iou} for a in answers]
        rollouts.append({"name": scenario.name, "num_frames": scenario.num_frames, "entries": entries, "answers": kept})
    return {"factor": clip.factor, "size": clip.size, "rollouts": rollouts}


def _entry(prompts: Prompts | None, arrays: Arrays, key: str, factor: int) -> Any:
    """Prompts as JSON; a mask goes to `arrays`, as small as the frames there."""
    if prompts is None:
        return None
    if prompts.mask is not None:
        arrays[key] = prompts.mask[0, 0, ::factor, ::factor].numpy()
        return {"mask": key}
    assert prompts.points is not None
    assert prompts.labels is not None
    return {"points": prompts.points[0].tolist(), "labels": prompts.labels[0].tolist()}


def _keep(arrays: Arrays, value: Tensor, name: str, half: bool) -> str:
    array = value.numpy()
    if name == "image":
        array = array.astype(np.uint8)
    elif half and array.dtype.kind == "f" and array.size > 64:
        array = array.astype(np.float16)
    digest = hashlib.sha256(repr((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()[:16]
    arrays[digest] = array
    return digest


def _write(target: Path, name: str, index: Any, arrays: Mapping[str, Any]) -> None:
    with atomic_path(target / f"{name}.npz") as draft:
        np.savez_compressed(draft, **arrays)
    write_json(target / f"{name}.json", index, indent=1)
