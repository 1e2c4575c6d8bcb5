"""Predictions in files, as challenge servers and scorers take them: palette PNGs called as the frames, or a folder an
object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.protocols import Answer
from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.label_png import write_labels


@contextmanager
def predictions_of(clip: Clip, folder: Path, *, per_object: bool) -> Iterator[Callable[[Answer], None]]:
    """A function that writes one frame of all objects; the predictions are at their place when the block ends well.

    Args:
        clip: the sequence that is predicted.
        folder: receives <sequence>/<frame>.png, or <sequence>/<object>/<frame>.png with 0 and 1.
        per_object: a folder an object.

    Raises:
        ValueError: objects of the clip cannot be labels of a PNG.
    """
    names = [item.name for item in clip.objects]
    if not per_object and not all(name.isdigit() and 0 < int(name) < 1 << 16 for name in names):
        raise ValueError(f"{clip.name}: objects {', '.join(names)} cannot be labels 1 to 65535 of one PNG a frame.")
    with atomic_path(folder / clip.name) as draft:
        draft.mkdir()

        def write(answer: Answer) -> None:
            file = f"{clip.stems[answer.t]}.png"
            masks = [(clip.objects[index], mask) for index, mask in zip(answer.objects, answer.masks)]
            if per_object:
                for item, mask in masks:
                    if answer.t >= item.start:
                        write_labels(draft / item.name / file, mask.astype(np.uint8))
                return
            labels = np.zeros(clip.size, dtype=np.uint16)
            # from high to low, so that the lowest label has the last word (SAM 2 release)
            for item, mask in sorted(masks, key=lambda pair: -int(pair[0].name)):
                labels[mask] = int(item.name)
            write_labels(draft / file, labels)

        yield write
