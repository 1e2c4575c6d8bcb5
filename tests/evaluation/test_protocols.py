"""Protocols with a scripted oracle: every score is known before it is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import Oracle, Scene

from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.datasets import as_images, open_data
from edgetam_pl.evaluation.promptable import Interaction, pvs_offline, pvs_online, segment_anything
from edgetam_pl.evaluation.protocols import Answer, clip_tracker, decided, follow
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.scoring import ScoreRule
from edgetam_pl.evaluation.vos import collect, evaluate_clip, evaluate_vos, glance, repeat_first_mask
from edgetam_pl.tracking.frame_tracker import FrameTracker
from edgetam_pl.types import Memory

ALL_FRAMES = ScoreRule(skip_first_and_last=False)
REGIONS = ScoreRule(skip_first_and_last=False, boundary=False)
UNEVEN = torch.tensor([[-1.0, 3.0, -2.0, 1.0], [2.0, -1.0, 5.0, -3.0], [-2.0, 1.0, -1.0, 4.0]])
"""Low-resolution logits whose outline depends on how they are enlarged."""


def moving_squares(*, frames: int = 9, objects: int = 1, appear: tuple[int, ...] = (), name: str = "squares") -> Clip:
    """Squares of 10 pixels that move a pixel a frame, one below the other; frames are noise, each of its own."""
    pixels = np.random.default_rng(len(name)).integers(0, 255, (frames, 48, 64, 3), dtype=np.uint8)
    masks = np.zeros((frames, objects, 48, 64), dtype=bool)
    for o in range(objects):
        for t in range(appear[o] if appear else 0, frames):
            masks[t, o, 2 + 14 * o : 12 + 14 * o, 5 + t : 15 + t] = True
    return Clip.of_arrays(name, pixels, masks)


def tracker_of(oracle: Oracle, clip: Clip) -> FrameTracker:
    return clip_tracker(oracle, clip)


def nothing(scene: Scene) -> torch.Tensor:
    return torch.zeros_like(scene.truth)


# ---------------------------------------------------------------------- semi-supervised VOS


def test_a_tracker_that_knows_the_truth_scores_100() -> None:
    clips = [moving_squares(objects=3), Clip.of_arrays("toy", *toy_clip(3, 6, (40, 56), 2))]
    report = evaluate_vos(Oracle(clips), clips)
    assert (report.j, report.f, report.jf) == (100.0, 100.0, 100.0)
    assert [(row.sequence, row.object, len(row.j)) for row in report.rows] == [
        ("squares", "1", 7), ("squares", "2", 7), ("squares", "3", 7), ("toy", "1", 4), ("toy", "2", 4)
    ]  # fmt: skip


def test_a_tracker_that_finds_nothing_scores_what_the_rules_say() -> None:
    clip = moving_squares(frames=9, objects=2)
    masks = np.stack([clip.truths.read(t) for t in range(9)])
    masks[3:5, 1] = False  # the second object hides: there, finding nothing is right
    hiding = Clip.of_arrays("hiding", clip.frames.pixels, masks)
    report = evaluate_vos(Oracle([hiding], nothing), [hiding])
    assert [row.score for row in report.rows] == pytest.approx([0.0, 100 * 2 / 7])
    assert report.jf == pytest.approx(100 / 7)


def test_a_tracker_that_is_right_every_other_frame_scores_accordingly() -> None:
    clip = moving_squares(frames=11)
    oracle = Oracle([clip], lambda scene: scene.truth & (scene.t % 2 == 0))
    assert evaluate_vos(oracle, [clip]).jf == pytest.approx(100 * 4 / 9)  # frames 1 to 9: 2, 4, 6, 8
    assert evaluate_vos(oracle, [clip], skip_first_and_last=False).jf == pytest.approx(100 * 6 / 11)


def test_objects_are_pooled_over_videos() -> None:
    one, three = moving_squares(objects=1, name="one"), moving_squares(objects=3, name="three")
    oracle = Oracle([one, three], lambda scene: scene.truth & (scene.clip.name == "one"))
    assert evaluate_vos(oracle, [one, three]).jf == 25.0


def test_repeating_the_first_mask_needs_no_tracker() -> None:
    clip = moving_squares(frames=5)
    report = repeat_first_mask([clip], skip_first_and_last=False)
    overlap = [100 - 10 * t for t in range(5)]
    assert report.rows[0].j == pytest.approx([o / (200 - o) for o in overlap])


def test_only_the_first_mask_is_given_and_the_rest_is_tracked() -> None:
    clip = moving_squares(objects=2)
    oracle = Oracle([clip])
    evaluate_vos(oracle, [clip])
    assert [(call.t, call.objects, call.said is not None) for call in oracle.calls] == [
        (t, (0, 1), t == 0) for t in range(9)
    ]
    assert oracle.encoded == 9  # once a frame, for all objects


def test_the_memory_of_a_given_mask_is_made_from_its_low_resolution_logits() -> None:
    clip = moving_squares(frames=3)
    oracle = Oracle([clip])
    evaluate_vos(oracle, [clip])
    assert oracle.calls[0].said.mask is not None
    assert oracle.memorized[0].prompts is not None
    assert oracle.memorized[0].prompts.mask is None
    assert len(oracle.memorized) == 2  # nobody would read that of the last frame


def test_objects_that_appear_later_are_joined_where_they_start() -> None:
    clip = moving_squares(frames=8, objects=3, appear=(0, 3, 3))
    oracle = Oracle([clip])
    answers = list(follow(tracker_of(oracle, clip), clip))
    prompted = [(call.t, call.objects) for call in oracle.calls if call.said is not None]
    assert prompted == [(0, (0,)), (3, (1, 2))]
    assert not answers[2].masks[1:].any()
    assert all(np.array_equal(answer.masks, clip.truths.read(answer.t)) for answer in answers)
    tracked = [(call.t, call.objects) for call in oracle.calls if call.said is None and call.t == 5]
    assert tracked == [(5, (0,)), (5, (1, 2))]  # a bank for each start


def test_overlap_is_removed_from_answers_and_never_from_memories() -> None:
    clip = moving_squares(objects=2)

    def both_claim_the_middle(scene: Scene) -> torch.Tensor:
        logits = torch.full_like(scene.truth, -5, dtype=torch.float32)
        logits[10:20, 10:20] = 2.0 + scene.object
        return logits

    oracle = Oracle([clip], both_claim_the_middle)
    kept = list(follow(tracker_of(oracle, clip), clip, non_overlap=True))
    assert all(not answer.masks[0].any() and answer.masks[1].sum() == 100 for answer in kept)
    assert all((decoded.best[:, 0] > 0).sum(dim=(1, 2)).tolist() == [100, 100] for decoded in oracle.memorized)
    overlapping = list(follow(tracker_of(oracle, clip), clip, non_overlap=False))
    assert all((answer.masks.sum(axis=(1, 2)) == 100).all() for answer in overlapping)


def test_the_highest_logit_of_a_pixel_wins() -> None:
    logits = torch.tensor([[[1.0, 2.0, -1.0, 3.0]], [[2.0, 1.0, -2.0, -1.0]]])
    assert decided(logits, non_overlap=True)[:, 0].tolist() == [[False, True, False, True], [True, False, False, False]]
    assert decided(logits, non_overlap=False)[:, 0].tolist() == [[True, True, False, True], [True, True, False, False]]


def test_low_resolution_logits_go_straight_to_the_native_size() -> None:
    """Not by way of the input's size: two steps would move the edges of uneven logits."""
    clip = moving_squares()
    oracle = Oracle([clip], lambda scene: UNEVEN)
    answer = next(follow(tracker_of(oracle, clip), clip))
    expected = torch.nn.functional.interpolate(UNEVEN[None, None], (48, 64), mode="bilinear") > 0
    assert np.array_equal(answer.masks[0], expected[0, 0].numpy())
    by_way_of_s = torch.nn.functional.interpolate(UNEVEN[None, None], (32, 32), mode="bilinear")
    assert not torch.equal(torch.nn.functional.interpolate(by_way_of_s, (48, 64), mode="bilinear") > 0, expected)


def test_evaluation_leaves_out_pointers_of_prompts_that_lie_ahead() -> None:
    """Their memories are read all the same (SAM 2 release); a short clip scales pointer distances."""
    clip = moving_squares(frames=9)
    bank = tracker_of(Oracle([clip]), clip).empty_bank()
    for t in (0, 8):
        memory = Memory(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.full((1, 1), float(t)), (0, 0))
        bank = bank.write(t, memory, prompted=True)
    recall = bank.recall(3)
    assert [float(memory.pointer) for _, memory in recall.frames] == [0.0, 8.0]
    assert [distance for distance, _ in recall.pointers] == [3]
    assert recall.span == 8


def test_the_model_is_put_back_as_it_was() -> None:
    clip = moving_squares(frames=3)

    class Module(torch.nn.Module, Oracle):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            Oracle.__init__(self, [clip], self._answer)
            self.part = torch.nn.Dropout()
            self.frozen = torch.nn.Dropout().eval()

        def _answer(self, scene: Scene) -> torch.Tensor:
            assert not self.part.training
            assert not torch.is_grad_enabled()
            return scene.truth

    model = Module()
    evaluate_vos(model, [clip])
    assert (model.training, model.part.training, model.frozen.training) == (True, True, False)


def test_a_glance_has_numbers_and_pictures_for_a_logger() -> None:
    clips = [moving_squares(name="one"), moving_squares(name="other")]
    found = glance(Oracle(clips), clips)
    assert found.values == {"j": 100.0, "f": 100.0, "jf": 100.0}
    assert set(found.pictures) == {"one", "other"}
    assert all(picture.ndim == 3 and picture.dtype == np.uint8 for picture in found.pictures.values())


def test_a_short_clip_without_a_scored_frame_has_no_row() -> None:
    clip = moving_squares(frames=2)
    assert evaluate_vos(Oracle([clip]), [clip]).rows == ()


# ---------------------------------------------------------------------- first-frame prompts


@pytest.mark.parametrize("prompt", ["mask", "box", "1-click", "3-click", "5-click"])
def test_first_frame_prompts_run_from_the_prompt_to_the_score(prompt: str) -> None:
    clip = moving_squares(objects=2)
    oracle = Oracle([clip])
    row = [evaluate_clip(clip, follow(tracker_of(oracle, clip), clip, prompt=prompt), ScoreRule())]
    assert collect("x", row).jf == 100.0
    said = [call for call in oracle.calls if call.said is not None]
    assert {call.t for call in said} == {0}
    assert len(said) == (int(prompt[0]) if prompt.endswith("click") else 1)


def test_clicks_go_to_the_middle_of_the_error_in_pixels_of_the_input() -> None:
    clip = moving_squares()  # 48 x 64, the square covers rows 2 to 11 and columns 5 to 14
    oracle = Oracle([clip], lambda scene: scene.truth & (torch.arange(64) < 8) if scene.clicks == 1 else scene.truth)
    list(follow(tracker_of(oracle, clip), clip, prompt="3-click"))
    first, second, third = (call.said for call in oracle.calls[:3])
    scale = torch.tensor([32 / 64, 32 / 48])
    assert first.points[0, 0].tolist() == (torch.tensor([9.0, 6.0]) * scale).tolist()
    assert first.labels.tolist() == [[1]]
    x, y = (second.points[0, 1] / scale).tolist()
    assert (round(x), second.labels.tolist()) == (11, [[1, 1]])  # the middle of columns 8 to 14
    assert 2 <= y <= 11
    assert second.previous is not None
    assert second.previous.abs().max() <= 32
    assert third.points.shape == (1, 3, 2)


def test_a_box_is_tight() -> None:
    clip = moving_squares()
    oracle = Oracle([clip])
    next(follow(tracker_of(oracle, clip), clip, prompt="box"))
    corners = oracle.calls[0].said.points[0] / torch.tensor([32 / 64, 32 / 48])
    assert corners.tolist() == [[5.0, 2.0], [14.0, 11.0]]
    assert oracle.calls[0].said.labels.tolist() == [[2, 3]]


def test_an_unknown_prompt_is_named() -> None:
    clip = moving_squares()
    with pytest.raises(ValueError, match="no prompt 'two clicks'; known ones: mask, box, 1-click"):
        next(follow(tracker_of(Oracle([clip]), clip), clip, prompt="two clicks"))


# ---------------------------------------------------------------------- promptable video segmentation


def rounds_of(answers: list[Answer], clip: Clip) -> dict[int, list[bool]]:
    """By round: is each frame of the first object answered with the truth?"""
    found: dict[int, dict[int, bool]] = {}
    for answer in answers:
        if answer.objects[0] == 0:
            assert answer.t not in found.setdefault(answer.round, {}), "one answer a frame and round"
            found[answer.round][answer.t] = np.array_equal(answer.masks[0], clip.truths.read(answer.t)[0])
    return {number: [frames[t] for t in sorted(frames)] for number, frames in sorted(found.items())}


def prompted_frames(oracle: Oracle) -> list[int]:
    """Frames that were clicked on, in order, once each time they were come back to."""
    clicked = [call.t for call in oracle.calls if call.said is not None]
    return [t for i, t in enumerate(clicked) if i == 0 or clicked[i - 1] != t]


def needs_a_prompt_every_three_frames(scene: Scene) -> torch.Tensor:
    """Right where it is clicked, and after n prompts on the first 3 n frames."""
    return scene.truth & bool(scene.said is not None or scene.t < 3 * scene.memories)


def test_online_corrects_the_first_bad_frame_and_never_the_past() -> None:
    clip = moving_squares(frames=9)
    oracle = Oracle([clip], needs_a_prompt_every_three_frames)
    found = rounds_of(list(pvs_online(tracker_of(oracle, clip), clip, how=Interaction(rounds=4))), clip)
    assert found == {1: [True] * 3 + [False] * 6, 2: [True] * 6 + [False] * 3, 3: [True] * 9, 4: [True] * 9}
    assert prompted_frames(oracle) == [0, 3, 6]
    assert oracle.encoded == 9  # branches share what is seen


def test_online_clicks_three_times_on_each_prompted_frame() -> None:
    clip = moving_squares(frames=9)
    oracle = Oracle([clip], needs_a_prompt_every_three_frames)
    list(pvs_online(tracker_of(oracle, clip), clip, how=Interaction(rounds=8)))
    clicks = {t: [call.said.num_points for call in oracle.calls if call.t == t and call.said] for t in (0, 3, 6)}
    assert clicks == {0: [1, 2, 3], 3: [1, 2, 3], 6: [1, 2, 3]}


@pytest.mark.parametrize(("threshold", "frames"), [(0.75, [0, 4]), (0.4, [0]), (0.95, [0, 2])])
def test_online_watches_the_threshold(threshold: float, frames: list[int]) -> None:
    clip = moving_squares(frames=6)
    columns = {0: 10, 1: 10, 2: 9, 3: 8, 4: 7, 5: 6}  # of ten that are found: an IoU of 1 ... 0.6

    def fading(scene: Scene) -> torch.Tensor:
        lost = 0 if scene.said is not None or scene.memories > 1 else 10 - columns[scene.t]
        return scene.truth & (torch.arange(64) >= 5 + scene.t + lost)

    oracle = Oracle([clip], fading)
    list(pvs_online(tracker_of(oracle, clip), clip, how=Interaction(threshold=threshold)))
    assert prompted_frames(oracle) == frames


def test_online_rounds_are_what_a_person_with_so_many_prompts_gets() -> None:
    """Branching shares work and changes nothing: round n of a long run is the last round of a run of n."""
    clip = moving_squares(frames=12)
    every = rounds_of(
        list(
            pvs_online(tracker_of(Oracle([clip], needs_a_prompt_every_three_frames), clip), clip, how=Interaction(rounds=5))
        ),
        clip,
    )
    for number in range(1, 6):
        oracle = Oracle([clip], needs_a_prompt_every_three_frames)
        alone = rounds_of(list(pvs_online(tracker_of(oracle, clip), clip, how=Interaction(rounds=number))), clip)
        assert alone[number] == every[number]


def test_offline_corrects_the_worst_frame_and_tracks_again_from_the_start() -> None:
    clip = moving_squares(frames=9)
    lost = {4: 8, 7: 5, 2: 3}  # columns of ten that are lost, until so many prompts are remembered

    def answer(scene: Scene) -> torch.Tensor:
        healed = {4: 2, 7: 3, 2: 4}.get(scene.t, 1)
        missing = 0 if scene.said is not None or scene.memories >= healed else lost.get(scene.t, 0)
        return scene.truth & (torch.arange(64) >= 5 + scene.t + missing)

    oracle = Oracle([clip], answer)
    found = rounds_of(list(pvs_offline(tracker_of(oracle, clip), clip, how=Interaction(rounds=5))), clip)
    assert prompted_frames(oracle) == [0, 4, 7, 2]
    wrong = {number: [t for t, right in enumerate(frames) if not right] for number, frames in found.items()}
    assert wrong == {1: [2, 4, 7], 2: [2, 7], 3: [2], 4: [], 5: []}


def test_offline_leaves_a_hopeless_frame_after_one_correction() -> None:
    clip = moving_squares(frames=6)
    oracle = Oracle([clip], lambda scene: scene.truth & (scene.t not in (3, 4)))
    list(pvs_offline(tracker_of(oracle, clip), clip, how=Interaction(rounds=4)))
    assert prompted_frames(oracle) == [0, 3, 4]


def test_offline_corrections_see_the_memory_of_the_pass_they_correct() -> None:
    clip = moving_squares(frames=6)
    seen: dict[int, int] = {}

    def answer(scene: Scene) -> torch.Tensor:
        if scene.clicks == 1 and scene.t:
            seen[scene.t] = scene.memories
        return scene.truth & (scene.t != 4 or scene.said is not None)

    list(pvs_offline(tracker_of(Oracle([clip], answer), clip), clip, how=Interaction(rounds=3)))
    assert seen == {4: 1}  # the first frame was remembered: not a fresh start


@pytest.mark.parametrize("protocol", [pvs_online, pvs_offline])
def test_corrections_may_be_forgotten_as_in_the_released_predictor(protocol: object) -> None:
    clip = moving_squares(frames=6)
    most: list[int] = []

    def answer(scene: Scene) -> torch.Tensor:
        most.append(scene.memories)
        return scene.truth & (scene.t != 2 or scene.said is not None)

    how = Interaction(rounds=3, corrected_are_prompted=False)
    found = rounds_of(list(protocol(tracker_of(Oracle([clip], answer), clip), clip, how=how)), clip)
    assert max(most) == 1
    assert found[2] == [True] * 6


@pytest.mark.parametrize("protocol", [pvs_online, pvs_offline])
def test_promptable_segmentation_follows_each_object_alone_from_its_start(protocol: object) -> None:
    clip = moving_squares(frames=7, objects=2, appear=(0, 3))
    oracle = Oracle([clip])
    answers = list(protocol(tracker_of(oracle, clip), clip, how=Interaction(rounds=2)))
    assert {answer.objects for answer in answers} == {(0,), (1,)}
    assert min(answer.t for answer in answers if answer.objects == (1,)) == 3
    rule = ScoreRule(skip_first_and_last=False, counts_from="start")
    report = collect("pvs", [evaluate_clip(clip, iter(answers), rule)])
    assert report.jf == 100.0
    assert {(row.object, row.round): len(row.j) for row in report.rows} == {
        ("1", 1): 7,
        ("1", 2): 7,
        ("2", 1): 4,
        ("2", 2): 4,
    }


def test_a_false_alarm_is_corrected_with_a_negative_click() -> None:
    clip = moving_squares(frames=5)
    masks = np.stack([clip.truths.read(t) for t in range(5)])
    masks[3] = False
    hiding = Clip.of_arrays("hiding", clip.frames.pixels, masks)
    ghost = torch.zeros(48, 64, dtype=torch.bool)
    ghost[30:40, 30:40] = True
    oracle = Oracle([hiding], lambda scene: ghost if scene.t == 3 and scene.said is None else scene.truth)
    found = rounds_of(list(pvs_online(tracker_of(oracle, hiding), hiding, how=Interaction(rounds=2))), hiding)
    clicked = next(call for call in oracle.calls if call.t == 3 and call.said is not None)
    assert clicked.said.labels.tolist() == [[0]]
    assert found == {1: [True, True, True, False, True], 2: [True] * 5}


def test_annotation_time_is_that_of_the_paper() -> None:
    how = Interaction(clicks=3)
    assert how.seconds(num_frames=300, rounds=1, online=True) == how.seconds(num_frames=300, rounds=1, online=False) == 35.5
    assert how.seconds(num_frames=300, rounds=8, online=True) == 30 + 8 * 5.5
    assert how.seconds(num_frames=300, rounds=8, online=False) == 8 * 35.5


# ---------------------------------------------------------------------- Segment Anything


def test_segment_anything_reports_the_iou_of_every_click() -> None:
    clip = moving_squares(frames=1, objects=3)
    oracle = Oracle([clip], lambda scene: scene.truth & (torch.arange(64) < 5 + 2 * scene.clicks))
    report = collect("sa", [evaluate_clip(clip, segment_anything(tracker_of(oracle, clip), clip), REGIONS)])
    assert {k: report.of_round(k).j for k in report.rounds} == pytest.approx({k: 20.0 * k for k in range(1, 6)})
    assert oracle.encoded == 1
    assert not oracle.memorized


def test_segment_anything_takes_many_masks_in_turns() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 48, 120, 3), dtype=np.uint8)
    masks = np.zeros((1, 37, 48, 120), dtype=bool)
    for o in range(37):
        masks[0, o, 5:10, 3 * o : 3 * o + 3] = True
    clip = Clip.of_arrays("many", frames, masks)
    oracle = Oracle([clip], image_size=256)
    report = collect("sa", [evaluate_clip(clip, segment_anything(tracker_of(oracle, clip), clip), REGIONS)])
    assert len(report.rows) == 37 * 5
    assert report.j == 100.0


# ---------------------------------------------------------------------- real data


@pytest.mark.parametrize("protocol", ["vos", "1-click", "pvs_online", "pvs_offline"])
def test_real_sequences_score_100_when_the_truth_is_told(shared: Path, protocol: str) -> None:
    data = open_data("davis16", shared / "data" / "davis16_dev", sequences=["blackswan"])
    report = _on_real_data(data.clip("blackswan"), protocol, every_other=False)
    assert report.jf == 100.0
    assert report.rows[0].stems[:2] == (("00001", "00002") if protocol in ("vos", "1-click") else ("00000", "00001"))


def test_real_objects_score_half_when_every_other_frame_is_told(shared: Path) -> None:
    data = open_data("davis17", shared / "data" / "davis17_multi_dev")
    report = _on_real_data(data.clip("schoolgirls"), "vos", every_other=True)
    truth = [data.clip("schoolgirls").truths.read(t) for t in range(80)]
    expected = [np.mean([t % 2 == 0 or not truth[t][o].any() for t in range(1, 79)]) for o in range(7)]
    assert [row.score for row in report.rows] == pytest.approx([100 * value for value in expected])


def test_real_images_score_100_when_the_truth_is_told(shared: Path) -> None:
    clips = list(open_data("images", shared / "data" / "coco_dev", limit=3))
    oracle = Oracle(clips, image_size=256)
    results = [evaluate_clip(clip, segment_anything(tracker_of(oracle, clip), clip), REGIONS) for clip in clips]
    report = collect("sa", results)
    assert len(report.rows) == 5 * sum(len(clip.objects) for clip in clips)
    assert report.j == 100.0


def test_frames_of_videos_can_be_images(shared: Path) -> None:
    videos = open_data("davis17", shared / "data" / "davis17_multi_dev")
    images = as_images(videos, every=20)
    assert images.names == tuple(f"schoolgirls/{t:05d}" for t in (0, 20, 40, 60))
    clip = images.clip("schoolgirls/00020")
    assert clip.num_frames == 1
    assert np.array_equal(clip.frames.read(0), videos.clip("schoolgirls").frames.read(20))
    assert all(mask.any() for mask in clip.truths.read(0))


def _on_real_data(clip: Clip, protocol: str, *, every_other: bool) -> Report:
    def answer(scene: Scene) -> torch.Tensor:
        return scene.truth & (not every_other or scene.t % 2 == 0)

    tracker = tracker_of(Oracle([clip], answer, image_size=256), clip)
    if protocol in ("pvs_online", "pvs_offline"):
        run = {"pvs_online": pvs_online, "pvs_offline": pvs_offline}[protocol]
        return collect(protocol, [evaluate_clip(clip, run(tracker, clip, how=Interaction(rounds=2)), ALL_FRAMES)])
    return collect(
        protocol, [evaluate_clip(clip, follow(tracker, clip, prompt=protocol if protocol != "vos" else "mask"), ScoreRule())]
    )
