"""The bank's memories as the runtime's state (Core AI, options.bank=state).

Core AI lets a program write into arrays that its caller owns and passes with every call: its state. Here an object's memory
slots are such an array. TrackStep reads it and writes the memory of its frame into the slot that it is told; MemoryEncoder
writes there that of a prompted frame. So no memory has to be copied in or out. Ages stay inputs, and so do pointers, which
are 2 % of the bank. A state is an input that a torch.export program writes into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetam_pl.exporting.parts import Feature, Part

MEMORY, SLOT = "memory", "memory_slot"
STATE = "memories"
"""Name of the state: not that of an output, which the converter would write into it."""

NOWHERE = -1
"""As memory_slot: the frame's memory is not kept."""

_KEPT = {"track_step": "memory_out", "memory_encoder": "memory"}
"""By role: the output that is written into the state as well."""


def keeping(part: Part, slots: int) -> Part:
    """The part with the memory slots as its state; one that has nothing to do with them as it is.

    Args:
        slots: R, of the state (1, R, N, D).
    """
    if part.role not in _KEPT:
        return part
    kept = part.output(_KEPT[part.role])
    slot = Feature(SLOT, (1,), "int32", f"Slot of the state that takes this frame's memory; {NOWHERE}: none")
    state = Feature(STATE, (1, slots, *kept.shape[1:]), kept.kind, "Memory slots of an object, kept by the runtime")
    inputs = tuple(feature for feature in part.inputs if feature.name != MEMORY)
    return dataclasses.replace(part, module=_Keeping(part, slots), inputs=(*inputs, slot), states=(state,))


class _Keeping(nn.Module):
    """Runs a part, and writes its memory into a slot of the state, which is the last argument."""

    slots: Tensor

    def __init__(self, part: Part, slots: int) -> None:
        super().__init__()
        self.part, self.module = part, part.module
        self.names = [feature.name for feature in part.inputs if feature.name != MEMORY]
        self.register_buffer("slots", torch.arange(slots, dtype=torch.int32))
        self.eval()

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        *given, slot, memory = tensors
        named = dict(zip(self.names, given, strict=True)) | {MEMORY: memory}
        results = self.module(*(named[feature.name] for feature in self.part.inputs))
        made = self.part.named(results)[_KEPT[self.part.role]]  # (1, N, D)
        memory.copy_(torch.where((self.slots == slot)[None, :, None, None], made[:, None], memory))
        return results


class Slots:
    """The state of one object as an app keeps it: an array that lives between calls, and what lies in which slot.

    The gate's loop gives every program all memories that a frame reads. Those that the programs have written into the state
    themselves are found there and read there; only one that is not there is copied in, which is counted.
    """

    def __init__(self, make: Callable[[NDArray[Any]], Any], shape: Sequence[int], dtype: str) -> None:
        self._make = make
        self.array = make(np.zeros(shape, dtype))
        """Core AI's, (1, R, N, D)."""
        self.copied = 0
        """Memories that no program had written."""
        self._held: list[Tensor | None] = [None] * shape[1]
        self._used = list(range(shape[1]))  # slots, the one that was read longest ago first
        self._frame: tuple[Tensor, int] | None = None  # features that TrackStep was given last, and where its memory went

    def read(self, memory: Tensor, age: Tensor) -> Tensor:
        """The ages (1, R) of what lies in the state, for memories (1, R, N, D) in any order, of which age < 0 is nothing."""
        places: dict[int, int] = {}
        missing = []
        for tokens, frames_ago in zip(memory[0], age[0].tolist(), strict=True):
            if frames_ago < 0:
                continue
            known = (
                i for i, held in enumerate(self._held) if i not in places and held is not None and torch.equal(held, tokens)
            )
            place = next(known, None)
            if place is None:
                missing.append((tokens, frames_ago))
            else:
                places[place] = frames_ago
        if missing:
            content = np.array(self.array.numpy())  # Core AI shows its arrays as copies
            for tokens, frames_ago in missing:
                place = next(i for i in self._used if i not in places)
                content[0, place] = tokens.numpy()
                self._held[place], places[place] = tokens, frames_ago
            self.array, self.copied = self._make(content), self.copied + len(missing)
        self._used = [i for i in self._used if i not in places] + list(places)
        return torch.tensor([[places.get(i, NOWHERE) for i in range(len(self._held))]], dtype=torch.int32)

    def place_of_step(self, ages: Tensor, features: Tensor) -> int:
        """Where TrackStep writes: a slot that it does not read, else that of the oldest unprompted frame, else nowhere."""
        row = ages[0].tolist()
        free = [i for i in self._used if row[i] < 0]
        place = free[0] if free else row.index(max(row)) if max(row) > 0 else NOWHERE
        self._frame = (features, place)
        return place

    def place_of_prompt(self, features: Tensor) -> int:
        """Where MemoryEncoder writes: over what TrackStep has just written of the same frame, else where nothing was read of
        late."""
        if self._frame is not None and self._frame[1] != NOWHERE and torch.equal(self._frame[0], features):
            return self._frame[1]
        return self._used[0]

    def wrote(self, place: int, tokens: Tensor) -> None:
        """A program has written a memory (1, N, D)."""
        if place != NOWHERE:
            self._held[place] = tokens[0]
            self._used = [*(i for i in self._used if i != place), place]


class KeepingProgram:
    """A program with the state, called like one without it: for the gate, which knows nothing of states.

    Args:
        run: calls the program with its own inputs and the state.
    """

    def __init__(self, part: Part, run: Any, slots: Slots) -> None:
        self.role, self.run, self.slots = part.role, run, slots

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own, features = dict(inputs), inputs["vision_features"]
        if self.role == "track_step":
            own["memory_age"] = self.slots.read(own.pop(MEMORY), own["memory_age"])
            place = self.slots.place_of_step(own["memory_age"], features)
        else:
            place = self.slots.place_of_prompt(features)
        own[SLOT] = torch.tensor([place], dtype=torch.int32)
        results = self.run(own, {STATE: self.slots.array})
        self.slots.wrote(place, results[_KEPT[self.role]])
        return results
