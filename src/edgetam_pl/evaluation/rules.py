"""How each data set is followed, scored and handed in (evaluation rules of DAVIS, SA-V, MOSE, YouTube-VOS, LVOS, VOST,
PUMaVOS, and the images of Segment Anything)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgetam_pl.evaluation.scoring import ScoreRule
from edgetam_pl.io.label_png import VOID

__all__ = ["RULES", "VOID", "SetRule", "rule_of"]


@dataclass(frozen=True)
class SetRule:
    """How a data set is followed, scored and handed in."""

    score: ScoreRule = field(default_factory=ScoreRule)
    layout: str = "davis"
    """The file in `datasets.layouts` that reads it."""
    non_overlap: bool = True
    """A pixel has one object: sets with one PNG a frame. SA-V's objects have a folder each and may overlap."""
    per_object: bool = False
    """A folder an object, in truth and predictions (SA-V)."""
    binary: bool = False
    """All labels are one object (DAVIS 2016)."""
    first_frame_only: bool = False
    """Objects are those of the first frame; what appears later is not asked about (DAVIS)."""
    grouped: bool = False
    """Scored by G, over seen and unseen objects (YouTube-VOS, LVOS)."""
    split: str = ""
    """The list of sequences below the root, if there is one."""
    note: str = ""
    """What a reader of the numbers should know."""


_IMAGES = SetRule(score=ScoreRule(skip_first_and_last=False, boundary=False), layout="images", non_overlap=False)
_APPEARANCE = ScoreRule(counts_from="appearance")
RULES: dict[str, SetRule] = {
    "davis16": SetRule(binary=True, first_frame_only=True, split="ImageSets/480p/val.txt"),
    "davis17": SetRule(first_frame_only=True, split="ImageSets/2017/val.txt"),
    "mose": SetRule(
        layout="mose", score=_APPEARANCE, note="truth of the validation set is with the challenge server: export only"
    ),
    "sav": SetRule(
        layout="sav", non_overlap=False, per_object=True, note="frames at 24 FPS, scored on the 6 FPS that are annotated"
    ),
    "ytvos19": SetRule(score=_APPEARANCE, grouped=True, note="objects are followed from the frame where they appear"),
    "lvos": SetRule(score=_APPEARANCE, grouped=True, note="objects are followed from the frame where they appear"),
    "vost": SetRule(score=ScoreRule(boundary=False), split="ImageSets/val.txt", note="J alone"),
    "pumavos": SetRule(score=_APPEARANCE),
    "folder": SetRule(score=_APPEARANCE, note="any folder laid out as DAVIS is"),
    "toy": SetRule(layout="toy", note="generated clips"),
    "images": _IMAGES,
}
"""Data sets by name. `folder` is for any other that is laid out as DAVIS is."""


def rule_of(kind: str, layout_kind: str) -> SetRule:
    """The rule of a data set; a layout that has none of its own is scored as images or folders of videos are."""
    return RULES.get(kind) or replace(_IMAGES if layout_kind == "image" else RULES["folder"], layout=kind, note="")
