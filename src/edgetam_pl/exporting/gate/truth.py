"""torch's side of the gate: what a model is, part by part and over rollouts. It is computed once for all formats."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting.adapters import flatten, loop_of, prepared
from edgetam_pl.exporting.clip import draw
from edgetam_pl.exporting.gate.check import Case, cases
from edgetam_pl.exporting.gate.comparing_tracker import FreeAnswers
from edgetam_pl.exporting.gate.measures import Measure
from edgetam_pl.exporting.gate.reference import Reference
from edgetam_pl.exporting.gate.rollouts import compare_verbs
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import Part
from edgetam_pl.model.track_anything import TrackAnything


@dataclass
class Truth:
    """A model, its flat adapters, and what torch makes of the gate's inputs, each computed when it is first asked for."""

    model: TrackAnything
    """As it is, in eval mode and fp32 on the CPU: what everything is compared with."""
    parts: Mapping[str, Part]
    """By role, of a copy that is prepared for export."""
    loop: RuntimeSpec
    gate: GateConfig
    free: FreeAnswers = field(default_factory=FreeAnswers)
    """What torch answers with a bank of its own."""

    @classmethod
    def of(cls, model: TrackAnything, cfg: ExportConfig) -> Truth:
        """Of a copy of any model."""
        original = copy.deepcopy(model).float().cpu().eval()
        flat = flatten(prepared(original, fused_attention=cfg.attention == "fused"), cfg)
        return cls(original, {part.role: part for part in flat}, loop_of(original, cfg), copy.deepcopy(cfg.gate))

    def check(self, cfg: ExportConfig) -> None:
        """Raise ValueError where an export asks for other rollouts, or for parts of other shapes."""
        wanted: dict[str, Any] = {
            "gate": (self.gate, cfg.gate),
            "prompt_slots": (self.loop.prompt_slots, cfg.prompt_slots),
            "num_memories": (self.loop.num_memories, cfg.num_memories),
            "num_pointers": (self.loop.num_pointers, cfg.num_pointers),
        }
        for key, (here, there) in wanted.items():
            if here != there:
                raise ValueError(f"{key} is {there}, and torch's side of this gate was made for {here}; make another Truth.")

    @cached_property
    def verbs(self) -> list[Measure]:
        """The adapters against the model's verbs."""
        return list(compare_verbs(self.model, self.parts, self.loop, self.gate))

    @cached_property
    def cases(self) -> list[Case]:
        """The inputs of the part by part check, with torch's outputs."""
        clip = draw(self.gate.short_frames, self.loop.size, seed=self.gate.seed)
        return cases(self.parts, self.loop, clip, self.gate)

    @cached_property
    def reference(self) -> Reference:
        """torch in front of the clip of all rollouts."""
        return Reference(self.model, self.loop, self.gate, draw(self.gate.frames, self.loop.size, seed=self.gate.seed))
