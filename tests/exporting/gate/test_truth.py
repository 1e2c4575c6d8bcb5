"""torch's side of the gate: computed once for all formats, and the same for the second as for the first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from exported import filled_model, tiny
from torch import Tensor

from edgetam_pl.config import ExportConfig, GateConfig, Tolerance
from edgetam_pl.exporting.gate.allocator import memory_kept
from edgetam_pl.exporting.gate.rollouts import Rollouts, compare_rollouts
from edgetam_pl.exporting.gate.truth import Truth

CFG = ExportConfig(model=tiny(), gate=GateConfig(frames=6, short_frames=4))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(filled_model(CFG.model), CFG)


def judged(truth: Truth) -> Rollouts:
    """torch's own parts, as if they were programs, through the rollouts."""
    programs = {role: part.run for role, part in truth.parts.items()}
    return compare_rollouts(truth.reference, truth.parts, programs, truth.free, Tolerance(), excusable=False)


def test_a_second_format_has_the_same_numbers_and_torch_tracks_no_second_time(
    truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    honest = truth.reference.pass_of
    monkeypatch.setattr(truth.reference, "pass_of", lambda *given: passes.append(1) or honest(*given))
    first = judged(truth)
    answers, spent = len(first.rows), len(passes)
    assert spent == 2 * answers  # a step from the programs' bank, and one from torch's own
    second = judged(truth)
    assert len(passes) - spent == answers
    assert second.measures == first.measures


def test_frames_that_all_rollouts_begin_with_are_encoded_once(truth: Truth) -> None:
    seen: list[Tensor] = []
    programs = {role: part.run for role, part in truth.parts.items()}
    honest = programs["image_encoder"]

    def encode(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(inputs["image"])
        return honest(inputs)

    changed = programs | {"image_encoder": encode}
    compare_rollouts(truth.reference, truth.parts, changed, truth.free, Tolerance(), excusable=False)
    assert len(seen) == CFG.gate.frames
    assert all(not torch.equal(one, other) for i, one in enumerate(seen) for other in seen[i + 1 :])


def test_an_export_with_other_rollouts_or_shapes_is_refused(truth: Truth) -> None:
    truth.check(CFG)
    with pytest.raises(ValueError, match="num_pointers is 4, and torch's side of this gate was made for 16"):
        truth.check(ExportConfig(model=CFG.model, gate=CFG.gate, num_pointers=4))
    with pytest.raises(ValueError, match="gate is "):
        truth.check(ExportConfig(model=CFG.model, gate=GateConfig(frames=7)))


def test_numbers_are_the_same_where_memory_is_kept() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    with memory_kept():
        inside = x @ x
    assert torch.equal(inside, x @ x)
