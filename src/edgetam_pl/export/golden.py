"""Golden inputs and outputs: what torch said, in files that need no torch to be read. `validate_on_mac.py` plays them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgetam_pl.export.clip import CheckClip, Scenario, draw, scenarios
from edgetam_pl.export.gate.check import cases
from edgetam_pl.export.gate.rollouts import Expected
from edgetam_pl.export.manifest import RuntimeSpec
from edgetam_pl.export.parts import Part
from edgetam_pl.types import Prompts

FOLDER = "golden"
KEPT_CASES = {
    "image_encoder": ("frame 0",),
    "prompt_decoder": ("click", "box", "click and previous mask"),
    "memory_encoder": ("frame 0, mask",),
    "track_step": ("one memory", "full bank"),
}
"""Cases that travel with the packages; each brings maps of several MB at full size."""


def write_golden(
    folder: Path,
    parts: Mapping[str, Part],
    loop: RuntimeSpec,
    expected: Sequence[Expected],
    *,
    frames: int,
    short_frames: int,
    seed: int,
) -> None:
    """Write `golden/` into `folder`: cases of every part, and the rollouts with torch's answers."""
    target = folder / FOLDER
    target.mkdir()
    _write_cases(target, parts, loop, draw(short_frames, loop.size, seed=seed))
    clip = draw(frames, loop.size, seed=seed)
    _write_rollouts(target, clip, scenarios(clip, short_frames=short_frames), expected)


def _write_cases(target: Path, parts: Mapping[str, Part], loop: RuntimeSpec, clip: CheckClip) -> None:
    """cases.json names arrays of cases.npz; equal arrays are stored once."""
    arrays: dict[str, np.ndarray] = {}
    index: dict[str, list[dict[str, Any]]] = {role: [] for role in parts}
    for role, case in cases(parts, loop, clip):
        if case.name not in KEPT_CASES[role]:
            continue
        outputs = parts[role].run(case.inputs)
        entry = {
            "name": case.name,
            "inputs": {name: _keep(arrays, value, name) for name, value in case.inputs.items()},
            "outputs": {name: _keep(arrays, value, name) for name, value in outputs.items()},
        }
        index[role].append(entry)
    _write_npz(target / "cases.npz", arrays)
    _write_json(target / "cases.json", index)


def _write_rollouts(target: Path, clip: CheckClip, told: Sequence[Scenario], expected: Sequence[Expected]) -> None:
    """rollouts.json: what is said on which frame; rollouts.npz: small frames, given masks, and torch's logits per answer."""
    arrays: dict[str, np.ndarray] = {"frames": clip.small.numpy()}
    index: dict[str, Any] = {"factor": clip.factor, "size": clip.size, "rollouts": []}
    for scenario in told:
        answers = [answer for answer in expected if answer.rollout == scenario.name]
        arrays[f"{scenario.name}/logits"] = np.concatenate([answer.logits.numpy() for answer in answers])
        entries = {
            str(t): [_said(said, arrays, f"{scenario.name}/{t}/{i}", clip.factor) for i, said in enumerate(all_said)]
            for t, all_said in scenario.entries.items()
        }
        index["rollouts"].append(
            {
                "name": scenario.name,
                "num_frames": scenario.num_frames,
                "entries": entries,
                "answers": [
                    {"frame": a.frame, "presence": a.presence, "iou": a.iou, "least_iou": a.least_iou} for a in answers
                ],
            }
        )
    _write_npz(target / "rollouts.npz", arrays)
    _write_json(target / "rollouts.json", index)


def _said(said: Prompts | None, arrays: dict[str, np.ndarray], key: str, factor: int) -> Any:
    if said is None:
        return None
    if said.mask is not None:
        arrays[key] = said.mask[0, 0, ::factor, ::factor].numpy()
        return {"mask": key}
    assert said.points is not None
    assert said.labels is not None
    return {"points": said.points[0].tolist(), "labels": said.labels[0].tolist()}


def _keep(arrays: dict[str, np.ndarray], value: Tensor, name: str) -> str:
    array = value.numpy()
    if name == "image":
        array = array.astype(np.uint8)
    elif array.dtype.kind == "f" and array.size > 64:
        array = array.astype(np.float16)  # small beside the bounds, and half the size
    digest = hashlib.sha256(repr((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()[:16]
    arrays[digest] = array
    return digest


def _write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    os.replace(draft, path)


def _write_json(path: Path, content: Any) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)
