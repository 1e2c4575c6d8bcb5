"""A recipe: the protocol with all that it leaves open, and the rule its answers are scored by: what a row must say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edgetam_pl.config.choices import check_choice
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.promptable import Interaction, pvs_offline, pvs_online, segment_anything
from edgetam_pl.evaluation.protocols import Answer, first_prompt, follow, repeat
from edgetam_pl.evaluation.rules import SetRule
from edgetam_pl.evaluation.scoring import ScoreRule
from edgetam_pl.tracking.frame_tracker import FrameTracker

SA_CLICKS = 5
PROTOCOLS = {
    "vos": "the first mask of each object",
    "first_frame": "{prompt} on the first frame of each object",
    "pvs_online": "{clicks}, one pass, correcting frames below IoU {how.threshold:g}",
    "pvs_offline": "{clicks}, several passes, correcting the worst frame",
    "sa": f"1 to {SA_CLICKS} clicks on each mask of an image",
    "repeat": "no model: the first mask on every frame",
}
"""By name, the prompts in words."""


@dataclass(frozen=True)
class Recipe:
    """How clips are evaluated. Plain values: equal recipes give equal numbers."""

    protocol: str = "vos"
    prompt: str = "mask"
    non_overlap: bool = True
    per_object: bool = False
    """Predictions are written as a folder an object."""
    score: ScoreRule = field(default_factory=ScoreRule)
    how: Interaction = field(default_factory=Interaction)

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, PROTOCOLS)
        first_prompt(self.prompt)
        if self.how.rounds < 1 or self.how.clicks < 1 or not 0 <= self.how.threshold <= 1:
            raise ValueError(f"{self.how}: rounds and clicks are at least 1, the threshold lies in 0 ... 1.")

    @classmethod
    def of(
        cls,
        protocol: str,
        rule: SetRule,
        *,
        prompt: str = "mask",
        how: Interaction | None = None,
        skip_first_and_last: bool | None = None,
        non_overlap: bool | None = None,
    ) -> Recipe:
        """The recipe for a data set: its rule, as far as the protocol follows it."""
        score = rule.score
        if protocol in ("pvs_online", "pvs_offline"):
            # no frame is given, so all count, from where the object is prompted
            score = replace(score, skip_first_and_last=False, counts_from="start")
        elif protocol == "first_frame":
            score = replace(score, counts_from="start")
        elif protocol == "sa":
            score = ScoreRule(skip_first_and_last=False, boundary=False)
        if skip_first_and_last is not None:
            score = replace(score, skip_first_and_last=skip_first_and_last)
        return cls(
            protocol=protocol,
            prompt=prompt if protocol == "first_frame" else "mask",
            non_overlap=rule.non_overlap if non_overlap is None else non_overlap,
            per_object=rule.per_object,
            score=score,
            how=how or Interaction(),
        )

    @property
    def needs_model(self) -> bool:
        return self.protocol != "repeat"

    @property
    def from_masks(self) -> bool:
        """Is an object's first mask given, so that a repetition of it is a fair rival?"""
        return self.protocol == "vos" or (self.protocol, self.prompt) == ("first_frame", "mask")

    @property
    def person_seconds(self) -> Callable[[Clip, int, int], float]:
        """Estimated time a person spends on an object (clip, its index, rounds); 0 where nobody works."""
        if self.protocol not in ("pvs_online", "pvs_offline"):
            return lambda clip, index, rounds: 0.0
        online = self.protocol == "pvs_online"
        return lambda clip, index, rounds: self.how.seconds(
            num_frames=clip.num_frames - clip.objects[index].start, rounds=rounds, online=online
        )

    def answers(self, tracker: FrameTracker | None, clip: Clip) -> Iterator[Answer]:
        """Run the protocol; `tracker` may be None where no model is needed."""
        if self.protocol == "repeat":
            return repeat(clip)
        assert tracker is not None, f"{self.protocol} needs a model"
        if self.protocol == "sa":
            return segment_anything(tracker, clip, clicks=SA_CLICKS)
        if self.protocol == "pvs_online":
            return pvs_online(tracker, clip, how=self.how)
        if self.protocol == "pvs_offline":
            return pvs_offline(tracker, clip, how=self.how)
        return follow(tracker, clip, prompt=self.prompt, non_overlap=self.non_overlap)

    @property
    def words(self) -> str:
        """For the conditions of a table's row."""
        clicks = f"{self.how.clicks} clicks on each of 1 to {self.how.rounds} frames"
        return PROTOCOLS[self.protocol].format(prompt=self.prompt, clicks=clicks, how=self.how)
