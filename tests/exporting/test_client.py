"""The app's ring buffer reads what the memory bank reads; the client plays the manifest's rules."""

from __future__ import annotations

import pytest
import torch
from runtime_specs import loop

from edgetam_pl.exporting.client import EMPTY_AGE, PackagedTracker, RingBank, fit, pack
from edgetam_pl.exporting.clip import BALL, BOX, draw, scenarios
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.types import EMPTY_RECALL, Memory, Prompts, Recall

POLICY = RecallPolicy(past_pointers_only=True)


def memory(t: int) -> Memory:
    return Memory(torch.full((1, 3, 2), float(t)), torch.zeros(1, 3, 2), torch.full((1, 4), float(t)), (1, 2))


def read(recall: Recall) -> tuple[set[tuple[int, float]], set[tuple[int, float]]]:
    """(age, frame) of memories and (distance, frame) of pointers; frames are the values the tokens hold."""
    return (
        {(age, each.tokens.mean().item()) for age, each in recall.frames},
        {(distance, pointer.mean().item()) for distance, pointer in recall.pointers},
    )


@pytest.mark.parametrize("prompted", [{0}, {0, 12}, {0, 5, 6, 30}, {0, 1, 2, 3, 4, 5, 6}])
def test_the_ring_buffer_reads_what_the_bank_reads_on_every_frame(prompted: set[int]) -> None:
    ring, bank = RingBank(loop()), MemoryBank(policy=POLICY)
    for t in range(60):
        if t:
            ours = fit(ring.recall(t), memories=7, pointers=16)
            theirs = fit(bank.recall(t), memories=7, pointers=16)
            assert read(ours) == read(theirs), t
        ring = ring.write(t, memory(t), prompted=t in prompted)
        bank = bank.write(t, memory(t), prompted=t in prompted)


def test_with_one_prompted_frame_the_ring_is_the_plain_one() -> None:
    """Slot 0 for the prompt, 1 + (t - 1) mod 6 for memories, 1 + (t - 1) mod 15 for pointers."""
    ring = RingBank(loop())
    for t in range(50):
        ring = ring.write(t, memory(t), prompted=t == 0)
    frames = [slot[0] for slot in ring.memories if slot is not None]
    assert frames[0] == 0
    assert all(1 + (t - 1) % 6 == slot for slot, t in enumerate(frames) if slot)
    pointers = [slot[0] for slot in ring.pointers if slot is not None]
    assert all(1 + (t - 1) % 15 == slot for slot, t in enumerate(pointers) if slot)


def test_future_prompts_lend_their_memory_but_not_their_pointer() -> None:
    ring, bank = RingBank(loop()), MemoryBank(policy=POLICY)
    for t in (0, 9, 1, 2, 3):
        ring, bank = ring.write(t, memory(t), prompted=t in (0, 9)), bank.write(t, memory(t), prompted=t in (0, 9))
    assert read(ring.recall(4)) == read(bank.recall(4))
    frames, pointers = read(ring.recall(4))
    assert (0, 9.0) in frames
    assert 9.0 not in {frame for _, frame in pointers}


def test_a_frame_that_is_corrected_is_stored_once() -> None:
    ring = RingBank(loop()).write(0, memory(0), prompted=True).write(1, memory(1), prompted=False)
    ring = ring.write(1, memory(11), prompted=True)
    assert read(ring.recall(2))[0] == {(0, 0.0), (0, 11.0)}


def test_writing_gives_a_new_ring_and_leaves_the_old_one() -> None:
    ring = RingBank(loop()).write(0, memory(0), prompted=True)
    ring.write(1, memory(1), prompted=False)
    assert read(ring.recall(2))[0] == {(0, 0.0)}


def test_a_packed_bank_has_fixed_shapes_and_says_what_is_empty() -> None:
    recall = RingBank(loop()).write(0, memory(5), prompted=True).write(1, memory(6), prompted=False).recall(2)
    slots = pack(recall, 0, loop(), filler=9.0)
    assert slots["memory"].shape == (1, 7, 3, 2)
    assert slots["memory_age"].tolist() == [[0, 1, *[EMPTY_AGE] * 5]]
    assert slots["memory"][0, :2, 0, 0].tolist() == [5.0, 6.0]
    assert (slots["memory"][0, 2:] == 9).all()
    assert slots["obj_ptr_valid"].tolist() == [[1.0, 1.0, *[0.0] * 14]]
    assert "obj_ptr_age" not in slots
    assert pack(recall, 0, loop(pointer_ages=True))["obj_ptr_age"][0, :2].tolist() == [2.0, 1.0]


def test_more_than_fits_keeps_prompted_frames_and_the_nearest_others() -> None:
    frames = ((0, memory(0)), (0, memory(20)), *((age, memory(40 - age)) for age in range(6, 0, -1)))
    kept = fit(Recall(frames, (), 15), memories=7, pointers=16)
    assert [age for age, _ in kept.frames] == [0, 0, 5, 4, 3, 2, 1]


def test_too_many_clicks_are_refused_with_the_key_to_change() -> None:
    tracker = PackagedTracker({}, loop())
    prompts = Prompts(torch.zeros(1, 5, 2), torch.ones(1, 5, dtype=torch.int64))
    features = torch.zeros(1, 4, 4, 4)
    from edgetam_pl.types import ImageFeatures

    with pytest.raises(ValueError, match=r"5 points and box corners were given; .* 4 slots \(prompt_slots\)"):
        tracker.prompt_inputs(features, ImageFeatures(None, None, features), prompts)


def test_frames_of_another_size_and_foreign_features_are_refused() -> None:
    tracker = PackagedTracker({}, loop())
    with pytest.raises(ValueError, match=r"these programs take \(B, 3, 64, 64\): stretch them first"):
        tracker.encode(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="hand them on unchanged"):
        tracker.attend(torch.zeros(1, 4, 4, 4), EMPTY_RECALL)


def test_the_clip_of_the_gate_holds_occlusion_exit_and_re_entry() -> None:
    clip = draw(64, 128, seed=0)
    again = draw(64, 128, seed=0)
    assert torch.equal(clip.small, again.small)
    area = clip.small_masks[:, BALL].flatten(1).sum(1)
    full = area[0].item()
    gone = [t for t in range(64) if area[t] == 0]
    assert any(0 < t < 12 and area[t] < 0.5 * full for t in range(64))  # behind the bar
    assert any(20 < t < 45 for t in gone)  # out of the frame
    assert area[50] > 0.9 * full  # and back
    assert (clip.small_masks[:, BOX].flatten(1).sum(1) > 0).all()


def test_the_scenarios_use_points_boxes_masks_and_corrections() -> None:
    clip = draw(64, 128, seed=0)
    click, box, mask = scenarios(clip, short_frames=10)
    assert [each.num_frames for each in (click, box, mask)] == [64, 10, 10]
    assert sorted(click.entries) == [0, 12, 47]
    assert click.entries[12][0] is None  # tracked first, then corrected
    first = box.entries[0][0]
    assert first is not None
    assert first.labels is not None
    assert first.labels.tolist() == [[2, 3]]
    assert 5 in box.entries  # a second prompted frame, in the future of frames 1 to 4
    given = mask.entries[0][0]
    assert given is not None
    assert given.mask is not None
    assert given.mask.shape == (1, 1, 128, 128)


def test_large_clips_are_enlarged_small_ones() -> None:
    clip = draw(4, 512, seed=0)
    assert clip.small.shape == (4, 3, 256, 256)
    assert clip.frame(0).shape == (1, 3, 512, 512)
    assert torch.equal(clip.frame(2)[0, :, ::2, ::2], clip.small[2])
