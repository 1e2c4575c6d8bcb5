"""The memory bank: what frame t reads, against the table that was verified on the reference. Strings stand for memories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.types import Memory


@dataclass(frozen=True)
class Note:
    """Stands for a memory; the bank only ever looks at the pointer."""

    frame: int
    pointer: str = field(default="")


def _note(t: int) -> Memory:
    return cast("Memory", Note(t, f"p{t}"))


def _bank(prompted: tuple[int, ...], recent: range | tuple[int, ...], **policy: int | bool) -> MemoryBank:
    bank = MemoryBank(policy=RecallPolicy(**policy), keep_all=True)  # type: ignore[arg-type]
    for t in prompted:
        bank = bank.write(t, _note(t), prompted=True)
    for t in recent:
        bank = bank.write(t, _note(t), prompted=False)
    return bank


def _frames(bank: MemoryBank, t: int) -> list[tuple[int, int]]:
    """(frame, row of the temporal code) in the order read: age k has row k - 1, prompted frames have row 6."""
    return [(cast("Note", memory).frame, age - 1 if age else 6) for age, memory in bank.recall(t).frames]


def _pointers(bank: MemoryBank, t: int) -> list[int]:
    return [int(str(pointer)[1:]) for _, pointer in bank.recall(t).pointers]


def _distances(bank: MemoryBank, t: int) -> list[float]:
    recall = bank.recall(t)
    return [round(distance / recall.span, 3) for distance, _ in recall.pointers]


TWENTY = [(0, 6), (20, 6), (4, 5), (5, 4), (6, 3), (7, 2), (8, 1), (9, 0)]


def test_golden_row_past_and_future_prompted_frames_in_evaluation() -> None:
    bank = _bank((0, 20), range(1, 10), clip_length=30, past_pointers_only=True)
    assert _frames(bank, 10) == TWENTY
    assert _pointers(bank, 10) == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_golden_row_past_and_future_prompted_frames_in_training() -> None:
    bank = _bank((0, 20), range(1, 10), clip_length=30)
    assert _frames(bank, 10) == TWENTY
    assert _pointers(bank, 10) == [0, 20, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert _distances(bank, 10) == [0.667, -0.667, 0.067, 0.133, 0.2, 0.267, 0.333, 0.4, 0.467, 0.533, 0.6]


def test_golden_row_prompted_frame_inside_the_window_is_not_repeated() -> None:
    bank = _bank((8,), (9,))
    assert _frames(bank, 10) == [(8, 6), (9, 0)]
    assert _pointers(bank, 10) == [8, 9]


def test_golden_row_missing_frames_are_skipped_not_padded() -> None:
    bank = _bank((0,), (1, 2), clip_length=8)
    assert _frames(bank, 3) == [(0, 6), (1, 1), (2, 0)]
    assert _pointers(bank, 3) == [0, 2, 1]


def test_golden_row_pointers_reach_fifteen_frames_back() -> None:
    bank = _bank((0,), range(1, 40), clip_length=50)
    assert _pointers(bank, 40) == [0, *range(39, 24, -1)]
    assert len(_frames(bank, 40)) == 7


def test_golden_row_backwards_mirrors_past_and_future() -> None:
    evaluation = _bank((20, 2), range(19, 5, -1), clip_length=30, past_pointers_only=True, backwards=True)
    assert _frames(evaluation, 5) == [(20, 6), (2, 6), (11, 5), (10, 4), (9, 3), (8, 2), (7, 1), (6, 0)]
    assert _pointers(evaluation, 5) == [20, *range(6, 20)]
    training = _bank((20, 2), range(19, 5, -1), clip_length=30, backwards=True)
    assert _distances(training, 5)[:3] == [1.0, -0.2, 0.067]


def test_golden_row_pointer_distances_scale_with_a_short_clip() -> None:
    bank = _bank((0, 6), (1, 2), clip_length=8)
    assert bank.recall(3).span == 7
    assert _distances(bank, 3) == [0.429, -0.429, 0.143, 0.286]


def test_a_clip_of_one_frame_still_has_a_divisor() -> None:
    assert _bank((), (), clip_length=1).recall(0).span == 1


@pytest.mark.parametrize(
    ("prompted", "limit", "selected"), [((0, 3, 12, 20, 11), 3, [3, 11, 12]), ((0, 3, 10, 12), 2, [3, 10])]
)
def test_the_limit_keeps_the_nearest_prompted_frames(prompted: tuple[int, ...], limit: int, selected: list[int]) -> None:
    """Reference fixtures, golden_small.json: select_closest_cond_frames at t = 10."""
    assert sorted(frame for frame, _ in _frames(_bank(prompted, (), max_prompted=limit), 10)) == selected


def test_prompted_frames_that_the_limit_leaves_out_may_fill_recent_slots() -> None:
    bank = _bank((0, 6, 8, 9), (7,), max_prompted=2)
    assert _frames(bank, 10) == [(9, 6), (8, 6), (6, 3), (7, 2)]
    assert _pointers(bank, 10) == [9, 8, 7, 6, 0]


def test_a_stride_keeps_the_last_frame_and_then_takes_multiples() -> None:
    """Slot p < 6 holds frame floor((t-2)/r) r - (5-p) r."""
    bank = _bank((0,), range(1, 30), stride=5)
    assert _frames(bank, 29) == [(0, 6), (5, 5), (10, 4), (15, 3), (20, 2), (25, 1), (28, 0)]


def test_a_bank_is_bounded_and_reads_as_an_unbounded_one() -> None:
    bounded, unbounded = MemoryBank(), MemoryBank(keep_all=True)
    for t in range(60):
        bounded, unbounded = (bank.write(t, _note(t), prompted=t == 0) for bank in (bounded, unbounded))
        assert bounded.recall(t + 1) == unbounded.recall(t + 1)
    assert (len(bounded.prompted), len(bounded.recent)) == (1, 15)
    assert len(unbounded.recent) == 59


def test_a_bounded_bank_with_a_stride_keeps_what_its_slots_need() -> None:
    policy = RecallPolicy(stride=4, num_pointers=2)
    bounded, unbounded = MemoryBank(policy=policy), MemoryBank(policy=policy, keep_all=True)
    for t in range(60):
        bounded, unbounded = (bank.write(t, _note(t), prompted=t == 0) for bank in (bounded, unbounded))
        assert bounded.recall(t + 1) == unbounded.recall(t + 1)


def test_writing_leaves_the_old_bank_as_it_was() -> None:
    before = _bank((0,), (1, 2))
    recall = before.recall(3)
    after = before.write(2, _note(2), prompted=True).write(3, _note(3), prompted=False)
    assert before.recall(3) == recall
    assert after.recall(4) != before.recall(4)


def test_a_frame_is_held_once_as_what_it_was_last() -> None:
    bank = _bank((0,), (1, 2, 3)).write(2, _note(2), prompted=True)
    assert _frames(bank, 4) == [(0, 6), (2, 6), (1, 2), (3, 0)]
    bank = bank.write(2, _note(2), prompted=False)
    assert _frames(bank, 4) == [(0, 6), (1, 2), (2, 1), (3, 0)]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"max_prompted": 1}, "at least 2"), ({"max_prompted": 0}, "at least 2"), ({"num_memories": 0}, "num_memories is 0")],
)
def test_impossible_policies_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecallPolicy(**values)
