"""What a session keeps of an object. Immutable: putting an old record back is undoing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.interactive.user_prompts import UserPrompts
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.types import Decoded, Memory


class Answer(NamedTuple):
    """What is kept of an object on a frame."""

    logits: Tensor  # (1, 1, S/4, S/4) float32
    presence: Tensor  # (1, 1)
    iou: Tensor  # (1, 1)
    tracked: bool = False  # has a propagation passed here? Then a click is a correction
    backwards: bool = False


class Unwritten(NamedTuple):
    """An answer to a person, not yet in the bank: memories are made when propagation starts, once per frame."""

    decoded: Decoded
    prompted: bool


@dataclass(frozen=True)
class Track:
    """Everything known of one object."""

    bank: MemoryBank
    said: Mapping[int, UserPrompts] = field(default_factory=dict)
    unwritten: Mapping[int, Unwritten] = field(default_factory=dict)
    answers: Mapping[int, Answer] = field(default_factory=dict)
    corrected: Mapping[int, Memory] = field(default_factory=dict)
    """Memories of corrections that do not count as prompted: the bank forgets them, and a later pass needs them again."""

    def facing(self, backwards: bool) -> MemoryBank:
        """The bank, read in the direction of travel."""
        return replace(self.bank, policy=replace(self.bank.policy, backwards=backwards))

    def passed(self, t: int, *, backwards: bool) -> Track:
        """After a propagation came to frame t, where a person had given the answer."""
        bank = self.bank
        if t in self.corrected:
            bank = bank.write(t, self.corrected[t], prompted=False)
        answer = self.answers[t]._replace(tracked=True, backwards=backwards)
        return replace(self, bank=bank, answers={**self.answers, t: answer})

    def within_reach(self, t: int) -> Track:
        """Without answers that nobody can ask for again from frame t: as many are kept as there are memories."""
        reach = self.bank.policy.num_pointers
        return replace(self, answers={i: a for i, a in self.answers.items() if abs(i - t) < reach or i in self.said})


def remembered_frames(bank: MemoryBank) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(t for t, _ in bank.prompted), tuple(t for t, _ in bank.recent)


def joined(banks: list[MemoryBank]) -> MemoryBank:
    """One bank for several objects that remember the same frames."""
    if len(banks) == 1:
        return banks[0]

    def rows(choose: Callable[[MemoryBank], tuple[tuple[int, Memory], ...]]) -> tuple[tuple[int, Memory], ...]:
        return tuple(
            (
                entries[0][0],
                Memory(
                    torch.cat([memory.tokens for _, memory in entries]),
                    torch.cat([memory.pos.expand_as(memory.tokens) for _, memory in entries]),
                    torch.cat([memory.pointer for _, memory in entries]),
                    entries[0][1].grid,
                ),
            )
            for entries in zip(*(choose(bank) for bank in banks))
        )

    return replace(banks[0], prompted=rows(lambda bank: bank.prompted), recent=rows(lambda bank: bank.recent))


def row(memory: Memory, index: int) -> Memory:
    """The memory of one object of several, in storage of its own so that it can be forgotten alone."""
    part = slice(index, index + 1)
    pos = memory.pos if memory.pos.shape[0] == 1 else memory.pos[part].clone()
    return Memory(memory.tokens[part].clone(), pos, memory.pointer[part].clone(), memory.grid)
