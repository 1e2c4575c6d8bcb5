"""The bank as Core AI's state, without Core AI: what the parts write, and which slots an app would use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exported import filled_model, tiny
from torch import Tensor

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreai_state import NOWHERE, SLOT, STATE, KeepingProgram, Slots, keeping
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.parts import Part

R, N, D = 3, 2, 4


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    cfg = ExportConfig(model=tiny())
    return dict(Truth.of(filled_model(cfg.model), cfg).parts)


def slots() -> Slots:
    """With arrays that are shown as copies, as Core AI's are."""
    return Slots(lambda content: SimpleNamespace(numpy=content.copy, content=content), (1, R, N, D), "float32")


def memory(*values: float) -> Tensor:
    return torch.stack([torch.full((N, D), value) for value in values])[None]


@pytest.mark.parametrize("role", ["track_step", "memory_encoder"])
@pytest.mark.parametrize("slot", [0, 5, NOWHERE])
def test_a_part_reads_the_state_and_writes_its_memory_into_the_slot(parts: dict[str, Part], role: str, slot: int) -> None:
    part = parts[role]
    kept = keeping(part, 7)
    assert [state.name for state in kept.states] == [STATE]
    assert [feature.name for feature in kept.inputs] == [f.name for f in part.inputs if f.name != "memory"] + [SLOT]
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(kept.states[0].shape, generator=draw)
    given = dict(zip((f.name for f in kept.inputs), kept.example())) | {SLOT: torch.tensor([slot], dtype=torch.int32)}
    wanted = part.run(given | {"memory": state.clone()})
    before = state.clone()
    with torch.no_grad():
        results = kept.named(kept.module(*given.values(), state))
    assert all(torch.equal(results[name], value) for name, value in wanted.items())
    made = wanted["memory_out" if role == "track_step" else "memory"]
    for i in range(7):
        assert torch.equal(state[0, i], made[0] if i == slot else before[0, i])


def test_parts_that_have_nothing_to_do_with_the_bank_stay_as_they_are(parts: dict[str, Part]) -> None:
    assert keeping(parts["image_encoder"], 7) is parts["image_encoder"]
    assert keeping(parts["prompt_decoder"], 7) is parts["prompt_decoder"]


def test_what_a_program_has_written_is_found_again_and_not_copied() -> None:
    kept = slots()
    kept.wrote(2, memory(8)[0, :1].expand(1, N, D))
    assert kept.read(memory(0, 8, 0), torch.tensor([[-1, 4, -1]])).tolist() == [[-1, -1, 4]]
    assert kept.copied == 0


def test_what_is_missing_is_copied_into_a_slot_that_nothing_reads() -> None:
    kept = slots()
    kept.wrote(0, memory(8)[0, :1].expand(1, N, D))
    assert kept.read(memory(8, 9, 7), torch.tensor([[0, 2, -1]])).tolist() == [[0, 2, -1]]
    assert kept.copied == 1
    assert np.array_equal(kept.array.numpy()[0, 1], np.full((N, D), 9))


def test_equal_memories_lie_in_slots_of_their_own() -> None:
    kept = slots()
    assert sorted(kept.read(memory(5, 5, 5), torch.tensor([[0, 1, 2]]))[0].tolist()) == [0, 1, 2]
    assert kept.copied == 3


@pytest.mark.parametrize(
    ("ages", "place"), [([0, NOWHERE, 1], 1), ([0, 2, 1], 1), ([0, 0, 0], NOWHERE)], ids=["free", "oldest", "all prompted"]
)
def test_track_step_writes_where_an_app_would(ages: list[int], place: int) -> None:
    assert slots().place_of_step(torch.tensor([ages]), torch.zeros(1)) == place


def test_a_correction_writes_over_what_track_step_has_written_of_the_frame() -> None:
    kept, frame = slots(), torch.ones(1)
    kept.place_of_step(torch.tensor([[0, 2, 1]]), frame)
    assert kept.place_of_prompt(frame) == 1
    assert kept.place_of_prompt(torch.zeros(1)) == 0  # another frame: where nothing was read of late


def test_programs_with_the_state_are_called_like_those_without() -> None:
    given: dict[str, Any] = {}

    def run(inputs: dict[str, Tensor], states: dict[str, Any]) -> dict[str, Tensor]:
        given.update(inputs, **states)
        return {"memory_out": memory(6)[0]}

    kept, part = slots(), SimpleNamespace(role="track_step")
    program = KeepingProgram(part, run, kept)  # type: ignore[arg-type]
    inputs = {"vision_features": torch.zeros(1), "memory": memory(3, 4, 0), "memory_age": torch.tensor([[0, 1, -1]])}
    program(inputs)
    assert set(given) == {"vision_features", "memory_age", SLOT, STATE}
    assert given[SLOT].tolist() == [2]
    assert kept.read(memory(6, 0, 0), torch.tensor([[1, -1, -1]])).tolist() == [[-1, -1, 1]]
    assert kept.copied == 2
