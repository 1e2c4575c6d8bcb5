"""One step: what is asked of a tracker, in which order, and that nothing is remembered outside the bank."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.prompters import GivenMasks, Script, no_prompt
from edgetam_pl.tracking.step import observe, rollout, step
from edgetam_pl.types import Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall

OBJECTS, DIM, SIDE = 2, 4, 16


@dataclass
class Fake:
    """A tracker that keeps a diary. The frame's number is the value of its features."""

    diary: list[tuple[str, int]] = field(default_factory=list)
    recalls: dict[int, Recall] = field(default_factory=dict)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        t = int(f16.flatten()[0])
        self.diary.append(("attend", t))
        self.recalls[t] = recall
        pointers = [pointer.sum() for _, pointer in recall.pointers]
        return f16 + 100 * len(recall.frames) + sum(pointers)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        self.diary.append(("decode", int(features.f16.flatten()[0])))
        logits = f_m.mean().expand(OBJECTS, 1, SIDE // 4, SIDE // 4)
        one = torch.ones(OBJECTS, 1)
        return Decoded(logits, one, one, torch.full((OBJECTS, DIM), float(f_m.mean()) / 1e3), prompts)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        self.diary.append(("memorize", int(f16.flatten()[0])))
        tokens = f16.expand(OBJECTS, DIM, 1, 1).flatten(2).mT
        return Memory(tokens, torch.zeros(1, 1, DIM), decoded.pointer, (1, 1))

    def count(self, verb: str, t: int) -> int:
        return self.diary.count((verb, t))


def _features(t: int) -> ImageFeatures:
    return ImageFeatures(None, None, torch.full((1, DIM, 1, 1), float(t)))


def _click() -> Prompts:
    return Prompts(points=torch.zeros(OBJECTS, 1, 2), labels=torch.ones(OBJECTS, 1, dtype=torch.int64))


def _masks(num_frames: int) -> Tensor:
    return torch.ones(num_frames, OBJECTS, SIDE, SIDE, dtype=torch.bool)


def test_a_prompted_frame_starts_afresh_whatever_the_bank_holds() -> None:
    fake = Fake()
    _, bank = step(fake, MemoryBank(), _features(0), 0, GivenMasks(_masks(1)).at(0))
    output, _ = step(fake, bank, _features(1), 1, Script({1: [_click()]}).at(1))
    assert fake.recalls[1] == Recall()
    assert not output.recalled
    assert output.prompted


def test_a_corrected_frame_keeps_its_memory_and_becomes_a_prompted_one() -> None:
    fake = Fake()
    _, bank = step(fake, MemoryBank(), _features(0), 0, GivenMasks(_masks(1)).at(0))
    output, bank = step(fake, bank, _features(1), 1, Script({1: [None, _click(), _click()]}).at(1))
    assert output.recalled
    assert output.prompted
    assert [t for t, _ in bank.prompted] == [0, 1]
    assert bank.recent == ()


def test_memory_is_read_once_and_written_once_however_many_corrections() -> None:
    fake = Fake()
    corrected = Script({0: [_click()] * 8})
    step(fake, MemoryBank(), _features(0), 0, corrected.at(0))
    assert [fake.count(verb, 0) for verb in ("attend", "decode", "memorize")] == [1, 8, 1]


def test_the_last_answer_is_the_one_remembered() -> None:
    fake = Fake()
    seen: list[Decoded] = []
    fake.memorize = lambda f16, decoded: seen.append(decoded) or Fake().memorize(f16, decoded)  # type: ignore[method-assign]
    output, _ = step(fake, MemoryBank(), _features(0), 0, Script({0: [_click(), _click()]}).at(0))
    assert seen == [output.rounds[-1]]


def test_the_step_is_pure() -> None:
    """The same inputs give the same outputs, however often and whatever happened in between; the old bank is untouched."""
    fake = Fake()
    _, bank = step(fake, MemoryBank(), _features(0), 0, GivenMasks(_masks(1)).at(0))
    before = bank.recall(1)
    first, _ = step(fake, bank, _features(1), 1, no_prompt)
    step(fake, bank, _features(7), 7, Script({7: [_click()]}).at(7))
    second, _ = step(fake, bank, _features(1), 1, no_prompt)
    assert torch.equal(first.f_m, second.f_m)
    assert torch.equal(first.final.logits, second.final.logits)
    assert bank.recall(1) == before


def test_observing_does_not_write() -> None:
    fake = Fake()
    observe(fake, MemoryBank(), _features(0), 0, no_prompt)
    assert fake.count("memorize", 0) == 0


def test_prompted_frames_come_first_then_the_others_in_time_order() -> None:
    fake = Fake()
    outputs = rollout(fake, _features, GivenMasks(_masks(8), (0, 5)), num_frames=8, bank=MemoryBank())
    assert [t for verb, t in fake.diary if verb == "decode"] == [0, 5, 1, 2, 3, 4, 6, 7]
    assert [t for t, output in enumerate(outputs) if output.prompted] == [0, 5]
    assert [not output.recalled for output in outputs] == [True, False, False, False, False, True, False, False]


def test_outputs_come_back_in_frame_order() -> None:
    def visited(output: FrameOutput) -> int:
        return int(output.f_m.flatten()[0]) % 100

    outputs = rollout(Fake(), _features, Script({3: [_click()]}), num_frames=4, bank=MemoryBank())
    assert visited(outputs[3]) == 3
    assert len(outputs) == 4


def test_frames_before_a_prompted_one_read_it() -> None:
    fake = Fake()
    rollout(fake, _features, GivenMasks(_masks(8), (0, 5)), num_frames=8, bank=MemoryBank())
    assert [age for age, _ in fake.recalls[2].frames] == [0, 0, 1]
    assert [distance for distance, _ in fake.recalls[2].pointers] == [2, -3, 1]


def test_the_last_frame_visited_is_not_remembered() -> None:
    fake = Fake()
    rollout(fake, _features, GivenMasks(_masks(3)), num_frames=3, bank=MemoryBank())
    assert [t for verb, t in fake.diary if verb == "memorize"] == [0, 1]


def test_a_rollout_may_go_on_from_a_bank() -> None:
    fake = Fake()
    _, bank = step(fake, MemoryBank(), _features(9), -1, GivenMasks(_masks(1)).at(0))
    outputs = rollout(fake, _features, Script({}), num_frames=2, bank=bank)
    assert all(output.recalled for output in outputs)


def test_a_prompter_that_skips_or_repeats_frames_is_refused() -> None:
    class Forgetful(Script):
        def order(self, num_frames: int) -> list[int]:
            return [0, 0]

    with pytest.raises(ValueError, match=r"\(0, 0\).*0 \.\.\. 1 exactly once"):
        rollout(Fake(), _features, Forgetful({}), num_frames=2, bank=MemoryBank())
