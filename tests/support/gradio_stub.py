"""Gradio as far as the page uses it: components that remember what they were made with and what calls what."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class Component:
    """Any component, as a context too. `wired` has (event, handler, inputs, outputs)."""

    def __init__(self, kind: str, words: tuple[Any, ...], settings: dict[str, Any]) -> None:
        self.kind, self.words, self.settings = kind, words, settings
        self.wired: list[tuple[str, Callable[..., Any], Any, Any]] = []

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, event: str) -> Callable[..., None]:
        return lambda handler, inputs=None, outputs=None: self.wired.append((event, handler, inputs, outputs))


class Error(Exception):
    """What Gradio shows a visitor."""


class Gradio(ModuleType):
    """The module; `made` lists its components in order."""

    Error, SelectData = Error, object

    def __init__(self) -> None:
        super().__init__("gradio")
        self.made: list[Component] = []

    def __getattr__(self, kind: str) -> Callable[..., Component]:
        if kind.startswith("__"):
            raise AttributeError(kind)

        def make(*words: Any, **settings: Any) -> Component:
            self.made.append(Component(kind, words, settings))
            return self.made[-1]

        return make

    def find(self, kind: str, word: str) -> Component:
        """The component of a kind whose first word holds `word`."""
        return next(one for one in self.made if one.kind == kind and one.words and word in str(one.words[0]))
