"""What to follow, as flags of the command line: points, boxes and masks of objects on frames."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetam_pl.io.label_png import VOID, objects_in, read_label_map


@dataclass(frozen=True)
class Prompt:
    """One prompt about one object on one frame."""

    object_id: int
    frame: int
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = field(default=None, compare=False)  # (H, W) bool


def read_prompts(given: Sequence[tuple[int, str, str]]) -> list[Prompt]:
    """Prompts by frame, from (object, flag, text) in the order of the command line; points of one frame go together.

    Raises:
        ValueError: no prompt at all, or a text that is no point, box or mask.

    >>> read_prompts([(1, "point", "10,20"), (1, "negative", "5,6"), (2, "box", "0,0,9,9@5")])[0].labels
    (1, 0)
    """
    if not given:
        raise ValueError("There is nothing to follow; give --point x,y, --box x0,y0,x1,y1 or --mask FILE.")
    prompts: dict[tuple[int, int, bool], Prompt] = {}
    for number, flag, text in given:
        words, _, frame = text.rpartition("@") if re.search(r"@\d+$", text) else (text, "", "0")
        if flag == "mask":
            for one in _masks(Path(words), number, int(frame)):
                prompts[one.object_id, one.frame, True] = one
            continue
        key = (number, int(frame), False)
        before = prompts.get(key, Prompt(number, int(frame)))
        if flag == "box":
            prompts[key] = replace(before, box=_numbers(words, 4, flag, "x0,y0,x1,y1"))
        else:
            point, label = _numbers(words, 2, flag, "x,y"), int(flag == "point")
            prompts[key] = replace(before, points=(*before.points, point), labels=(*before.labels, label))
    return sorted(prompts.values(), key=lambda prompt: prompt.frame)


def _numbers(text: str, count: int, flag: str, form: str) -> tuple[Any, ...]:
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ValueError(f"--{flag} is {text!r}; expected {form} or {form}@FRAME, numbers in pixels of the video.")
    return numbers


def _masks(path: Path, number: int, frame: int) -> list[Prompt]:
    """A mask for the object named last, or, of a file with several numbers, one for each."""
    if not path.is_file():
        raise ValueError(f"There is no mask at {path}; give an image: a palette PNG, or black and white.")
    labels = read_label_map(path)
    found = objects_in(labels, path)
    if not found or found == (VOID,):
        raise ValueError(f"The mask {path} is empty; give one that shows the object.")
    if len(found) == 1:
        return [Prompt(number, frame, mask=labels == found[0])]
    return [Prompt(label, frame, mask=labels == label) for label in found]


class PromptAction(argparse.Action):
    """Collects prompts in order, each with the object named last."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        flag = str(option).lstrip("-")
        if flag == "object":
            namespace.current = values
        else:
            namespace.prompts = [*namespace.prompts, (namespace.current, flag, values)]


def object_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < VOID:
        raise argparse.ArgumentTypeError(f"{text} is no object number; use 1 to 254 (in a label map, 255 is void).")
    return int(text)
