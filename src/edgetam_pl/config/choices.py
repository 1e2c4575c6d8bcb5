"""Fields that take one of several words: declared once, checked once, with the nearest legal word for a mistyped one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable
from dataclasses import field, fields, is_dataclass
from typing import Any, NoReturn


class Flags(argparse.ArgumentParser):
    """A parser of flags that names the nearest one where it does not know a flag."""

    def error(self, message: str) -> NoReturn:
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = did_you_mean(unknown[0], known) if message.startswith("unrecognized arguments") and unknown else ""
        super().error(message + ("." + near if near else ""))


def choice(default: str, *others: str) -> Any:
    """A dataclass field that takes one of these words, the first by default."""
    return field(default=default, metadata={"choices": (default, *others)})


def check_choices(cfg: Any, prefix: str = "") -> None:
    """Refuse a word that a field declared with `choice` does not take, anywhere in a configuration.

    Raises:
        ValueError: naming the key, the word, the legal ones and the nearest of them.
    """
    for one in fields(cfg):
        key, value = f"{prefix}{one.name}", getattr(cfg, one.name)
        if "choices" in one.metadata:
            check_choice(key, value, one.metadata["choices"])
        for index, inner in enumerate(value if isinstance(value, list) else [value]):
            if is_dataclass(inner):
                check_choices(inner, f"{key}[{index}]." if isinstance(value, list) else f"{key}.")


def check_choice(key: str, value: object, legal: Iterable[object]) -> None:
    """Refuse a value that is none of `legal`.

    Raises:
        ValueError: naming the key, the value, the legal ones and the nearest of them.
    """
    known = tuple(legal)
    if value not in known:
        known = tuple(str(one) for one in known)
        raise ValueError(f"{key} is {value}; use one of {', '.join(known)}.{did_you_mean(str(value), known)}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A sentence that names the nearest known word, to be put behind another; empty where none is near.

    >>> did_you_mean("vidoe", ["image", "video"])
    ' Did you mean video?'
    """
    swapped = [one for one in known if sorted(one) == sorted(word)]  # trian is train rather than trial
    near = swapped or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
