"""The memory bank: what has been seen, and what to recall at frame t. Pure data (EdgeTAM Sec. 3.1; SAM 2 release)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgetam_pl.types import Memory, Recall


@dataclass(frozen=True)
class RecallPolicy:
    """Which of the remembered frames are read at frame t. The defaults are every release's."""

    num_memories: int = 7
    """Spatial memories: prompted frames, plus up to num_memories - 1 recent ones (T in the paper)."""
    num_pointers: int = 16
    """Object pointers reach num_pointers - 1 frames back."""
    max_prompted: int = -1
    """At most this many prompted frames, the nearest ones; -1 for all (SAM 2: max_cond_frames_in_attn). Never 0 or 1."""
    stride: int = 1
    """Distance between the recent memories beyond t-1 (SAM 2: memory_temporal_stride_for_eval)."""
    past_pointers_only: bool = False
    """Leave out pointers of prompted frames in the future: SAM 2 does so in evaluation, not in training."""
    clip_length: int | None = None
    """Frames of the whole video when it is known and short; bounds pointers and scales their distances (SAM 2.1)."""
    backwards: bool = False
    """Track from the last frame to the first: past and future change places."""

    @classmethod
    def inference(cls, clip_length: int | None = None) -> RecallPolicy:
        """SAM 2's rules in evaluation: pointers of prompted frames in the future are left out."""
        return cls(past_pointers_only=True, clip_length=clip_length)

    def __post_init__(self) -> None:
        if self.max_prompted in (0, 1) or self.max_prompted < -1:
            raise ValueError(f"max_prompted is {self.max_prompted}; use -1 for no limit, or at least 2.")
        for name in ("num_memories", "num_pointers", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def pointer_reach(self) -> int:
        """min(clip length, num_pointers): pointers come from t-1 to t-(reach-1)."""
        return self.num_pointers if self.clip_length is None else min(self.clip_length, self.num_pointers)


@dataclass(frozen=True)
class MemoryBank:
    """Memories by frame number. Immutable: `write` returns a new bank, and the old one stays what it was.

    >>> bank = MemoryBank().write(0, "m0", prompted=True).write(1, "m1", prompted=False)
    >>> [age for age, _ in bank.frames_at(2)]
    [0, 1]
    """

    prompted: tuple[tuple[int, Memory], ...] = ()  # never forgotten
    recent: tuple[tuple[int, Memory], ...] = ()  # first in, first out
    policy: RecallPolicy = field(default_factory=RecallPolicy)
    keep_all: bool = False
    """Keep every frame: an interactive session may go back. Otherwise frames out of reach are dropped."""

    def write(self, t: int, memory: Memory, *, prompted: bool) -> MemoryBank:
        """The bank with frame t added, replacing what it held of that frame."""
        others = tuple(entry for entry in self.recent if entry[0] != t)
        prompts = tuple(entry for entry in self.prompted if entry[0] != t)
        if prompted:
            return replace(self, prompted=(*prompts, (t, memory)), recent=others)
        reach = max(self.policy.num_pointers - 1, (self.policy.num_memories - 1) * self.policy.stride + 1)
        near = others if self.keep_all else tuple(entry for entry in others if abs(t - entry[0]) < reach)
        return replace(self, prompted=prompts, recent=(*near, (t, memory)))

    def recall(self, t: int) -> Recall:
        """What frame t reads: ages and memories in the order in which SAM 2 concatenates them."""
        chosen, spare = self._prompted_near(t)
        lookup = dict(spare) | dict(self.recent)
        # pointers of prompted frames, then those of the last frames
        pointers = [
            (self._distance(t, i), memory.pointer)
            for i, memory in chosen
            if not self.policy.past_pointers_only or self._distance(t, i) >= 0
        ]
        for age in range(1, self.policy.pointer_reach):
            memory = lookup.get(t + age if self.policy.backwards else t - age)
            if memory is not None:
                pointers.append((age, memory.pointer))
        return Recall(self.frames_at(t), tuple(pointers), max(self.policy.pointer_reach - 1, 1))

    def frames_at(self, t: int) -> tuple[tuple[int, Memory], ...]:
        """(age, memory) pairs: prompted frames with age 0, then recent ones from the oldest slot to t-1."""
        chosen, spare = self._prompted_near(t)
        lookup = dict(spare) | dict(self.recent)
        recent = ((age, lookup.get(self._frame_of_slot(t, age))) for age in range(self.policy.num_memories - 1, 0, -1))
        return (*((0, memory) for _, memory in chosen), *((age, memory) for age, memory in recent if memory is not None))

    def _distance(self, t: int, i: int) -> int:
        return i - t if self.policy.backwards else t - i

    def _frame_of_slot(self, t: int, age: int) -> int:
        """The frame in the slot `age` steps back: t-1, then multiples of the stride (SAM 2 release)."""
        r, sign = self.policy.stride, -1 if self.policy.backwards else 1
        if age == 1:
            return t - sign
        if sign > 0:
            return (t - 2) // r * r - (age - 2) * r
        return -(-(t + 2) // r) * r + (age - 2) * r

    def _prompted_near(self, t: int) -> tuple[tuple[tuple[int, Memory], ...], tuple[tuple[int, Memory], ...]]:
        """Prompted frames that are read, and those that the limit leaves out (SAM 2: select_closest_cond_frames)."""
        limit = self.policy.max_prompted
        if limit < 0 or len(self.prompted) <= limit:
            return self.prompted, ()
        # the nearest before and the nearest after come first, then others by distance
        before = [i for i, _ in self.prompted if i < t]
        after = [i for i, _ in self.prompted if i >= t]
        nearest = ([max(before)] if before else []) + ([min(after)] if after else [])
        others = sorted((i for i, _ in self.prompted if i not in nearest), key=lambda i: abs(i - t))
        picked = nearest + others[: limit - len(nearest)]
        by_frame = dict(self.prompted)
        return (
            tuple((i, by_frame[i]) for i in picked),
            tuple((i, memory) for i, memory in self.prompted if i not in picked),
        )
