"""The interactive session: who is disturbed by what, what is remembered, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.frames import FrameMasks
from edgetam_pl.io.video import Stills, Stream, fill_holes
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import ABSENT_LOGIT, Decoded, ImageFeatures, Memory, Prompts, Recall

SIDE, HEIGHT, WIDTH, FRAMES = 32, 24, 40, 12


@dataclass
class FakeTracker:
    """Cheap arithmetic: answers depend on the frame, on all that is recalled and on all prompts."""

    image_size: int = SIDE
    calls: list[str] = field(default_factory=list)
    prompts: list[Prompts | None] = field(default_factory=list)
    recalled: list[Recall] = field(default_factory=list)
    binarized: list[bool] = field(default_factory=list)
    given_masks: list[bool] = field(default_factory=list)
    presence: float = 5.0

    def normalise(self, frames: Tensor) -> Tensor:
        return frames.float() / 255 - 0.5

    def encode(self, images: Tensor) -> ImageFeatures:
        self.calls.append("encode")
        return ImageFeatures(None, None, F.avg_pool2d(images, 16).repeat(1, 2, 1, 1))  # (1, 6, 2, 2)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        self.calls.append("attend")
        self.recalled.append(recall)
        f_m = f16
        for age, memory in recall.frames:
            f_m = f_m + memory.tokens.mean(dim=(1, 2))[:, None, None, None] / (2 + age)
        for distance, pointer in recall.pointers:
            f_m = f_m + pointer.mean(dim=1)[:, None, None, None] / (5 + distance)
        return f_m

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        self.calls.append("decode")
        self.prompts.append(prompts)
        side = SIDE // 4
        logits = F.interpolate(f_m.mean(dim=1, keepdim=True), (side, side)).repeat(1, 3, 1, 1)
        logits = logits + torch.tensor([0.0, 0.3, 0.1])[None, :, None, None]
        if prompts is not None and prompts.points is not None and prompts.labels is not None:
            logits = logits + (prompts.points.sum(dim=(1, 2)) * prompts.labels.sum(dim=1) / 100)[:, None, None, None]
        if prompts is not None and prompts.previous is not None:
            logits = logits + prompts.previous / 10
        if prompts is not None and prompts.mask is not None:
            logits = 20 * F.interpolate(prompts.mask.float(), (side, side), mode="bilinear", antialias=True) - 10
        if gate and self.presence <= 0:
            logits = torch.full_like(logits, ABSENT_LOGIT)
        rows = logits.shape[0]
        iou = torch.tensor([[0.2, 0.9, 0.5]]).expand(rows, 3) if logits.shape[1] == 3 else torch.ones(rows, 1)
        pointer = logits.mean(dim=(1, 2, 3))[:, None].repeat(1, 6)
        return Decoded(logits, iou, torch.full((rows, 1), self.presence), pointer, prompts)

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        self.calls.append("memorize")
        self.binarized.append(binarize)
        self.given_masks.append(decoded.prompts is not None and decoded.prompts.mask is not None)
        tokens = (decoded.best.flatten(1) + f16.mean() / 7).unsqueeze(2).repeat(1, 1, 4)  # (O, 64, 4)
        return Memory(tokens, torch.zeros(1, 64, 4), decoded.pointer, (8, 8))


def frames(count: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def a_session(count: int = FRAMES, **options: object) -> tuple[Session, FakeTracker]:
    tracker, chosen = FakeTracker(), replace(SessionOptions(), **options)  # type: ignore[arg-type]
    return Session(tracker, Stills(frames(count)), options=chosen, fill_holes=fill_holes), tracker


def logits_of(outputs: list[FrameMasks], number: int) -> dict[int, Tensor]:
    return {out.frame: out.logits[out.objects.index(number)] for out in outputs if number in out.objects}


def same(a: dict[int, Tensor], b: dict[int, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[t], b[t]) for t in a)


# ---------------------------------------------------------------------- following


def test_a_session_gives_what_rollout_gives() -> None:
    session, tracker = a_session()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, 8:20] = True
    session.prompt(1, 0, mask=mask)
    outputs = list(session.propagate())

    given = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )

    class FirstMask:
        def order(self, num_frames: int) -> range:
            return range(num_frames)

        def at(self, t: int):
            return lambda answer: Prompts(mask=given >= 0.5) if t == 0 and answer is None else None

    def features(t: int) -> ImageFeatures:
        image = torch.from_numpy(frames()[t]).permute(2, 0, 1)[None].contiguous()
        image = F.interpolate(image, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
        return tracker.encode(tracker.normalise(image))

    policy = RecallPolicy(past_pointers_only=True, clip_length=FRAMES)
    expected = rollout(tracker, features, FirstMask(), num_frames=FRAMES, bank=MemoryBank(policy=policy))
    assert [out.frame for out in outputs] == list(range(FRAMES))
    for out, wanted in zip(outputs, expected, strict=True):
        enlarged = F.interpolate(wanted.final.best, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        assert torch.equal(out.logits, enlarged[:, 0])


def test_features_are_computed_once_a_frame_whatever_the_number_of_objects() -> None:
    session, tracker = a_session()
    for number in (1, 2, 3):
        session.prompt(number, 0, points=[(5 * number, 7)])
    list(session.propagate())
    assert tracker.calls.count("encode") == FRAMES
    assert tracker.calls.count("attend") == 3 * FRAMES


def test_an_object_added_at_frame_5_leaves_the_first_unchanged_bit_for_bit() -> None:
    alone, _ = a_session()
    alone.prompt(1, 0, points=[(5, 7)])
    expected = logits_of(list(alone.propagate()), 1)

    session, _ = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    outputs = []
    for out in session.propagate():
        outputs.append(out)
        if out.frame == 4:
            session.prompt(2, 5, box=(3, 3, 20, 15))
    assert same(logits_of(outputs, 1), expected)
    assert sorted(logits_of(outputs, 2)) == list(range(5, FRAMES))


def test_removing_an_object_leaves_the_others_unchanged_bit_for_bit() -> None:
    session, _ = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    session.prompt(2, 0, points=[(15, 7)])
    expected = logits_of(list(session.propagate()), 2)
    session.remove(1)
    assert session.objects == (2,)
    assert same(logits_of(list(session.propagate()), 2), expected)


def test_objects_in_one_batch_get_the_same_answers() -> None:
    answers = []
    for batch in (False, True):
        session, tracker = a_session(batch_objects=batch)
        session.prompt(1, 0, points=[(5, 7)])
        session.prompt(2, 0, points=[(15, 7)])
        session.prompt(3, 2, points=[(25, 17)])
        answers.append(list(session.propagate()))
        if batch:  # objects 1 and 2 share every frame after the first; object 3 has a history of its own
            assert tracker.calls.count("attend") == 3 + (FRAMES - 1) + (FRAMES - 3)
    for number in (1, 2, 3):
        one, together = logits_of(answers[0], number), logits_of(answers[1], number)
        assert one.keys() == together.keys()
        for t in one:
            torch.testing.assert_close(together[t], one[t], rtol=1e-5, atol=1e-5)


def test_propagating_backwards_mirrors_propagating_forwards() -> None:
    forwards, _ = a_session()
    forwards.prompt(1, 0, points=[(5, 7)])
    expected = logits_of(list(forwards.propagate()), 1)
    mirrored = Session(FakeTracker(), Stills(frames()[::-1].copy()))
    mirrored.prompt(1, FRAMES - 1, points=[(5, 7)])
    outputs = list(mirrored.propagate(backwards=True))
    assert [out.frame for out in outputs] == list(range(FRAMES - 1, -1, -1))
    assert same({FRAMES - 1 - t: logits for t, logits in logits_of(outputs, 1).items()}, expected)


def test_by_default_an_object_is_followed_from_its_own_first_prompt() -> None:
    session, _ = a_session()
    session.prompt(1, 3, points=[(5, 7)])
    session.prompt(2, 6, points=[(5, 9)])
    forwards = list(session.propagate())
    assert sorted(logits_of(forwards, 1)) == list(range(3, FRAMES))
    assert sorted(logits_of(forwards, 2)) == list(range(6, FRAMES))
    backwards = list(session.propagate(backwards=True))
    assert sorted(logits_of(backwards, 1)) == list(range(4))
    assert [out.frame for out in backwards] == list(range(6, -1, -1))


def test_prompts_ahead_are_read_as_memories_but_not_as_pointers() -> None:
    """In evaluation SAM 2 leaves out pointers of prompted frames that lie ahead; short videos scale pointer distances."""
    session, tracker = a_session()
    for t in (0, 9):
        session.prompt(1, t, points=[(5, 7)])
    list(session.propagate(0))
    after = tracker.recalled[2:]  # the first two are the prompted frames
    assert [age for age, _ in after[1].frames] == [0, 0, 1]  # frame 2
    assert [distance for distance, _ in after[1].pointers] == [2, 1]
    assert all(distance >= 0 for recall in after for distance, _ in recall.pointers)
    assert {recall.span for recall in after} == {FRAMES - 1}


def test_with_a_start_all_objects_are_followed_from_there() -> None:
    session, _ = a_session()
    session.prompt(1, 6, points=[(5, 7)])
    outputs = list(session.propagate(2, max_frames=3))
    assert [out.frame for out in outputs] == [2, 3, 4]
    assert sorted(logits_of(outputs, 1)) == [2, 3, 4]


def test_only_the_chosen_objects_are_followed() -> None:
    session, tracker = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    session.prompt(2, 0, points=[(15, 7)])
    outputs = list(session.propagate(objects=[2]))
    assert all(out.objects == (2,) for out in outputs)
    assert len(session.bank(1).prompted) == 0
    assert tracker.calls.count("memorize") == FRAMES


# ---------------------------------------------------------------------- prompts


def test_a_first_prompt_starts_afresh_and_a_correction_reads_memory() -> None:
    session, tracker = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    list(session.propagate())
    before = session.masks(7).logits
    tracker.recalled.clear()
    tracker.prompts.clear()
    session.prompt(1, 7, points=[(9, 9)], labels=[0])
    assert len(tracker.recalled) == 1
    assert [age for age, _ in tracker.recalled[0].frames] == [0, 6, 5, 4, 3, 2, 1]
    said = tracker.prompts[-1]
    assert said is not None
    assert said.previous is not None
    assert said.labels is not None
    assert said.labels.tolist() == [[0]]
    torch.testing.assert_close(
        F.interpolate(said.previous, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[:, 0], before.clamp(-32, 32)
    )
    session.prompt(2, 7, points=[(9, 9)])
    assert tracker.recalled[-1].frames == ()


def test_clicks_add_up_until_said_afresh_and_the_box_comes_first() -> None:
    session, tracker = a_session()
    session.prompt(1, 0, points=[(10, 6)])
    session.prompt(1, 0, box=(0, 0, 20, 12))
    session.prompt(1, 0, points=[(20, 12)], labels=[0])
    said = tracker.prompts[-1]
    assert said is not None
    assert said.labels is not None
    assert said.points is not None
    assert said.labels.tolist() == [[2, 3, 1, 0]]
    wanted = torch.tensor([[0.0, 0.0], [16.0, 16.0], [8.0, 8.0], [16.0, 16.0]])  # pixels of the square input
    torch.testing.assert_close(said.points[0], wanted)
    session.prompt(1, 0, points=[(1, 1)], afresh=True)
    assert tracker.prompts[-1].labels.tolist() == [[1]]  # type: ignore[union-attr]


def test_a_mask_is_the_answer_and_replaces_points() -> None:
    session, tracker = a_session()
    session.prompt(1, 0, points=[(10, 6)])
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:12] = True
    out = session.prompt(1, 0, mask=mask)
    assert tracker.prompts[-1].points is None  # type: ignore[union-attr]
    assert (out.masks[0] == mask).float().mean() > 0.9
    session.prompt(1, 0, points=[(10, 6)])
    assert tracker.prompts[-1].mask is None  # type: ignore[union-attr]


def test_corrected_frames_are_prompted_only_if_asked() -> None:
    for corrections, expected in ((True, [0, 7]), (False, [0])):
        session, _ = a_session(corrections_are_prompted=corrections)
        session.prompt(1, 0, points=[(5, 7)])
        list(session.propagate())
        session.prompt(1, 7, points=[(9, 9)])
        list(session.propagate(7))
        assert [t for t, _ in session.bank(1).prompted] == expected


def test_a_correction_changes_what_follows() -> None:
    session, _ = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    first = logits_of(list(session.propagate()), 1)
    session.prompt(1, 7, points=[(9, 9)])
    second = logits_of(list(session.propagate()), 1)
    assert all(torch.equal(first[t], second[t]) for t in (0,))
    assert all(not torch.equal(first[t], second[t]) for t in range(8, FRAMES))
    corrected = session.masks(7).logits[0]
    assert torch.equal(second[7], corrected)


def test_a_correction_is_found_again_by_a_pass_from_far_away() -> None:
    session, tracker = a_session(count=40, corrections_are_prompted=False)
    session.prompt(1, 0, points=[(5, 7)])
    list(session.propagate())
    corrected = session.prompt(1, 38, points=[(9, 9)]).logits
    outputs = logits_of(list(session.propagate(0)), 1)
    assert torch.equal(outputs[38], corrected[0])
    assert [age for age, _ in tracker.recalled[-1].frames] == [0, 6, 5, 4, 3, 2, 1]  # frame 39 reads frame 38


def test_memories_are_made_when_propagation_starts_once_a_frame() -> None:
    session, tracker = a_session()
    for x in (3, 5, 9):
        session.prompt(1, 0, points=[(x, 7)])
    assert "memorize" not in tracker.calls
    list(session.propagate(max_frames=1))
    assert tracker.calls.count("memorize") == 1


# ---------------------------------------------------------------------- the released predictor's habits


def test_previous_logits_are_clamped_only_if_asked() -> None:
    for limit, expected in ((2.0, 2.0), (0.0, 10.0)):
        session, tracker = a_session(clamp_previous=limit)
        session.prompt(1, 0, mask=np.ones((HEIGHT, WIDTH), bool))
        session.prompt(1, 0, points=[(3, 3)])
        assert tracker.prompts[-1].previous.max().item() == pytest.approx(expected)  # type: ignore[union-attr]


def test_what_the_memory_of_a_given_mask_is_made_of() -> None:
    for options, binarized, given in (
        (SessionOptions(), [False] * 3, [False] * 3),
        (SessionOptions(memory_from_low_res=False), [False] * 3, [True, False, False]),
        (SessionOptions.released(), [True, False, False], [False] * 3),
        (SessionOptions.released(postprocessing=False), [False] * 3, [False] * 3),
    ):
        tracker = FakeTracker()
        session = Session(tracker, Stills(frames(3)), options=options, fill_holes=fill_holes)
        session.prompt(1, 0, mask=np.ones((HEIGHT, WIDTH), bool))
        list(session.propagate())
        assert tracker.binarized == binarized
        assert tracker.given_masks == given


def test_memory_is_stored_in_the_type_asked_for_and_read_in_the_models() -> None:
    session, tracker = a_session(memory_dtype=torch.bfloat16)
    session.prompt(1, 0, points=[(5, 7)])
    list(session.propagate())
    assert session.bank(1).prompted[0][1].tokens.dtype == torch.bfloat16
    assert tracker.recalled[-1].frames[0][1].tokens.dtype == torch.float32


def test_small_holes_are_filled_in_the_answer_but_not_in_tracked_memories() -> None:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[6:9, 10:15] = False  # about 1 of 8 x 8 low-resolution pixels
    plain, filled = (a_session(fill_holes_area=area)[0].prompt(1, 0, mask=mask) for area in (0, 4))
    assert not plain.masks[0, 7, 12]
    assert bool(filled.masks.all())


def test_without_overlap_a_pixel_belongs_to_the_highest_logit() -> None:
    session, _ = a_session(non_overlap=True)
    session.prompt(1, 0, points=[(5, 7)])
    out = session.prompt(2, 0, points=[(15, 17)])
    assert bool((out.masks.sum(dim=0) <= 1).all())
    assert bool((out.logits[0] <= -10).all())
    free, _ = a_session()
    free.prompt(1, 0, points=[(5, 7)])
    assert torch.equal(free.prompt(2, 0, points=[(15, 17)]).label_map(), out.label_map())


def test_image_mode_does_not_judge_presence() -> None:
    picture = Stills(frames(1))
    for options, absent in ((SessionOptions(), True), (SessionOptions.image(), False)):
        session = Session(FakeTracker(presence=-3.0), picture, options=options)
        out = session.prompt(1, 0, points=[(30, 20)])
        assert bool((out.logits < ABSENT_LOGIT / 2).all()) is absent


def test_one_click_offers_three_candidates_best_first() -> None:
    session, _ = a_session()
    session.prompt(1, 0, points=[(30, 20)])
    offered = session.candidates(1, 0)
    assert offered.logits.shape == (3, HEIGHT, WIDTH)
    assert offered.iou.tolist() == sorted(offered.iou.tolist(), reverse=True)
    assert torch.equal(offered.logits[:1], session.masks(0).logits)


# ---------------------------------------------------------------------- what is held


def test_a_long_video_holds_a_flat_memory() -> None:
    count = 2000
    session = Session(FakeTracker(), Stills(np.broadcast_to(frames(1), (count, HEIGHT, WIDTH, 3))))
    session.prompt(1, 0, points=[(5, 7)])
    held, entries = [], []
    for out in session.propagate():
        if out.frame % 100 == 99:
            held.append(session.held_bytes())
            entries.append(len(session.bank(1).prompted) + len(session.bank(1).recent))
    assert len(set(held)) == 1
    assert set(entries) == {16}  # 1 prompted, and 15 within reach of a pointer


def test_keeping_all_lets_one_go_back_to_any_frame() -> None:
    for keep_all in (False, True):
        session, tracker = a_session(count=40, keep_all=keep_all)
        session.prompt(1, 0, points=[(5, 7)])
        list(session.propagate())
        assert (len(session.masks(10).objects) == 1) is keep_all
        tracker.recalled.clear()
        session.prompt(1, 10, points=[(9, 9)])
        assert (len(tracker.recalled[0].frames) > 0) is keep_all


def test_undo_takes_back_each_step() -> None:
    session, _ = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    first = session.masks(0).logits
    session.prompt(1, 0, points=[(9, 9)])
    session.prompt(2, 0, points=[(9, 9)])
    list(session.propagate())
    session.remove(1)
    session.reset()
    assert session.objects == ()
    session.undo()
    assert session.objects == (2,)
    session.undo()
    assert session.objects == (1, 2)
    session.undo()  # the propagation
    assert session.masks(5).objects == ()
    session.undo()
    session.undo()
    assert torch.equal(session.masks(0).logits, first)
    session.undo()
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_a_session_that_was_reset_gives_what_a_new_one_gives() -> None:
    session, _ = a_session()
    session.prompt(3, 4, points=[(5, 7)])
    list(session.propagate())
    session.reset()
    session.prompt(1, 0, points=[(5, 7)])
    fresh, _ = a_session()
    fresh.prompt(1, 0, points=[(5, 7)])
    assert same(logits_of(list(session.propagate()), 1), logits_of(list(fresh.propagate()), 1))


def test_a_live_stream_is_followed_to_its_end() -> None:
    def camera() -> Iterator[np.ndarray]:
        buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for frame in frames():
            buffer[:] = frame  # cameras reuse their buffers
            yield buffer

    session = Session(FakeTracker(), Stream(camera()), policy=RecallPolicy(past_pointers_only=True, clip_length=FRAMES))
    session.prompt(1, 0, points=[(5, 7)])
    live = list(session.propagate())
    file, _ = a_session()
    file.prompt(1, 0, points=[(5, 7)])
    assert same(logits_of(live, 1), logits_of(list(file.propagate()), 1))
    with pytest.raises(ValueError, match="ended after 12 frames"):
        session.prompt(2, FRAMES, points=[(5, 7)])
    with pytest.raises(ValueError, match="gone"):
        session.prompt(2, 0, points=[(5, 7)])


# ---------------------------------------------------------------------- what is refused

BAD_PROMPTS: dict[str, tuple[dict[str, object], str]] = {
    "a frame that is not there": ({"t": FRAMES, "points": [(1, 1)]}, "no frame 12; frames are numbered from 0 to 11"),
    "a negative frame": ({"t": -1, "points": [(1, 1)]}, "There is no frame -1"),
    "a click outside the frame": ({"points": [(WIDTH, 1)]}, "lies outside the 40 x 24 frame"),
    "a click at no number": ({"points": [(float("nan"), 1)]}, "lies outside"),
    "a second click outside": ({"points": [(1, 1), (1, -0.1)]}, "lies outside"),
    "a click in three dimensions": ({"points": [(1, 1, 1)]}, "expected \\(x, y\\)"),
    "a label unheard of": ({"points": [(1, 1)], "labels": [2]}, "A label is 2"),
    "too few labels": ({"points": [(1, 1), (2, 2)], "labels": [1]}, "2 points came with 1 labels"),
    "a box with no area": ({"box": (5, 5, 5, 9)}, "has no area"),
    "a box inside out": ({"box": (9, 9, 5, 5)}, "has no area"),
    "a box that leaves the frame": ({"box": (5, 5, 50, 9)}, "leaves the 40 x 24 frame"),
    "a box of three numbers": ({"box": (5, 5, 9)}, "expected \\(x0, y0, x1, y1\\)"),
    "a mask of another size": (
        {"mask": np.zeros((WIDTH, HEIGHT), bool)},
        "is \\(40, 24\\); .* are \\(24, 40\\)",
    ),
    "a mask of several objects": ({"mask": np.full((HEIGHT, WIDTH), 3, np.uint8)}, "values other than 0 and 1"),
    "a mask and a click": ({"mask": np.zeros((HEIGHT, WIDTH), bool), "points": [(1, 1)]}, "give it alone"),
    "nothing": ({}, "No prompt was given"),
    "object 0": ({"object_id": 0, "points": [(1, 1)]}, "use a whole number from 1"),
    "an object with a name": ({"object_id": "dog", "points": [(1, 1)]}, "use a whole number from 1"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_bad_prompt_is_refused_and_changes_nothing(case: str) -> None:
    arguments, message = BAD_PROMPTS[case]
    session, tracker = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    list(session.propagate())
    objects, bank, held, shown = session.objects, session.bank(1), session.held_bytes(), session.masks(3).logits
    calls = len(tracker.calls)
    for number in (1, 2):
        with pytest.raises(ValueError, match=message):
            session.prompt(**{"object_id": number, "t": 3, **arguments})  # type: ignore[arg-type]
    assert session.objects == objects
    assert session.bank(1) is bank
    assert session.held_bytes() == held
    assert torch.equal(session.masks(3).logits, shown)
    assert len(tracker.calls) == calls
    session.undo()  # the propagation, not a prompt that never was
    assert session.masks(3).objects == ()


def test_an_object_that_does_not_exist_is_refused() -> None:
    session, _ = a_session()
    session.prompt(1, 0, points=[(5, 7)])
    for call in (
        lambda: session.remove(7),
        lambda: session.propagate(objects=[7]),
        lambda: session.bank(7),
        lambda: session.candidates(7, 0),
    ):
        with pytest.raises(ValueError, match="There is no object 7; objects so far: 1"):
            call()
    assert session.objects == (1,)


def test_propagation_is_refused_before_it_starts() -> None:
    session, _ = a_session()
    with pytest.raises(ValueError, match="prompt an object first"):
        session.propagate()
    session.prompt(1, 0, points=[(5, 7)])
    with pytest.raises(ValueError, match="There is no frame 99"):
        session.propagate(99)
    with pytest.raises(ValueError, match="at least 1"):
        session.propagate(max_frames=0)


def test_a_frame_that_cannot_be_read_stops_propagation_and_keeps_what_was_done() -> None:
    class Damaged(Stills):
        def __getitem__(self, t: int) -> np.ndarray:
            if t == 5:
                raise ValueError("frame 5 cannot be read")
            return super().__getitem__(t)

    session = Session(FakeTracker(), Damaged(frames()))
    session.prompt(1, 0, points=[(5, 7)])
    seen = []
    with pytest.raises(ValueError, match="frame 5"):
        seen.extend(out.frame for out in session.propagate())
    assert len(session.masks(4).objects) == 1
    assert session.masks(5).objects == ()
    assert [t for t, _ in session.bank(1).recent] == [1, 2, 3, 4]


def test_frames_of_another_size_are_refused() -> None:
    odd = iter([frames(1)[0], np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8)])
    session = Session(FakeTracker(), Stream(odd))
    session.prompt(1, 0, points=[(5, 7)])
    with pytest.raises(ValueError, match="All frames of a video must have one size"):
        list(session.propagate())


@pytest.mark.parametrize(
    ("field_name", "value"), [("resize", "nearest"), ("clamp_previous", -1.0), ("cached_frames", 0), ("undo_depth", 0)]
)
def test_illegal_options_are_refused(field_name: str, value: object) -> None:
    with pytest.raises(ValueError, match=field_name):
        replace(SessionOptions(), **{field_name: value})  # type: ignore[arg-type]


def test_filling_holes_needs_a_function() -> None:
    with pytest.raises(ValueError, match="fill_holes"):
        Session(FakeTracker(), Stills(frames(1)), options=SessionOptions.released())
