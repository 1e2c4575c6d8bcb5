"""Predictions in files, as challenge servers and scorers take them: palette PNGs called as the frames, or a folder an
object.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.protocols import Answer
from edgetam_pl.io.label_png import write_labels


class Predictions:
    """The predictions of one sequence, written beside their place and moved there when they are complete."""

    def __init__(self, folder: Path, clip: Clip, *, per_object: bool) -> None:
        """`folder` receives <sequence>/<frame>.png, or <sequence>/<object>/<frame>.png with 0 and 1.

        Raises:
            ValueError: objects of the clip cannot be labels of a palette.
        """
        self.clip, self.per_object = clip, per_object
        self.place, self.partial = folder / clip.name, folder / f"{clip.name}.partial"
        names = [item.name for item in clip.objects]
        if not per_object and not all(name.isdigit() and 0 < int(name) < 256 for name in names):
            raise ValueError(f"{clip.name}: objects {', '.join(names)} cannot be labels 1 to 255 of one PNG a frame.")
        shutil.rmtree(self.partial, ignore_errors=True)

    def write(self, answer: Answer) -> None:
        """Write one frame of all objects."""
        stem = self.clip.stems[answer.t]
        if self.per_object:
            for mask, index in zip(answer.masks, answer.objects):
                item = self.clip.objects[index]
                if answer.t >= item.start:
                    write_labels(self.partial / item.name / f"{stem}.png", mask.astype(np.uint8))
            return
        labels = np.zeros(self.clip.size, dtype=np.uint8)
        for label, mask in sorted(
            ((int(self.clip.objects[i].name), m) for m, i in zip(answer.masks, answer.objects)), reverse=True
        ):
            labels[mask] = label  # from high to low, so that the lowest has the last word (SAM 2 release)
        write_labels(self.partial / f"{stem}.png", labels)

    def finish(self) -> None:
        """Move the predictions to their place."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.partial.replace(self.place)
