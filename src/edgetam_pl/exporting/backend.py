"""What a format must offer to be exported to. Everything that depends on the format is in one class (docs/export.md).

A new format is a subclass of `Backend` in a file of its own, and a line in `backends.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgetam_pl.config import ExportConfig
from edgetam_pl.config.choices import check_choice
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.extras import Finding, install_words, package_finding
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.parts import Feature, Part, Program, Saved


class ProgramFacts(NamedTuple):
    """What a saved program consists of."""

    kinds: tuple[str, ...] = ()
    """Types of operation, without constants."""
    operations: int = 0
    """How many; 0 where the format does not say."""
    max_rank: int = 0
    """Largest number of dimensions of any tensor."""


class Backend(ABC):
    """A format that parts can be converted to, saved in, and executed from on this machine."""

    name: str
    """Value of `backend=`."""
    title: str
    """Its name in texts."""
    suffix: str
    """Of the saved files or folders."""
    extra: str = "export"
    """Extra of this package that installs what it needs."""
    needs: tuple[str, ...] = ()
    """Modules (and distributions of the same name) without which nothing goes."""
    optional: Mapping[str, str] = {}
    """Distributions that only some option needs, and that option in words."""
    tested: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    """Oldest version that works and newest that was tried, (major, minor), of distributions where it matters."""
    default_precision = "fp32"
    """Of precision=auto."""
    choices: Mapping[str, tuple[Any, ...]] = {
        "attention": ("decomposed",),
        "compression": ("none",),
        "multifunction": (False,),
    }
    """Legal values of the keys of `ExportConfig` that not every format has."""
    options: Mapping[str, tuple[Any, ...]] = {}
    """Keys of `options` that this format alone has (options.KEY=VALUE), and their legal values; the first is the default."""
    volatile: tuple[str, ...] = ()
    """Files of a saved package that differ from one save to the next, and so do not count in its hash."""
    runner = ""
    """What executes saved parts here, for the gate; empty: the runtime that `title` names."""
    device = "phone"
    """What the packages are made for and were not run on here, for the report."""

    def precision(self, config: ExportConfig) -> str:
        """fp16 or fp32, after checking every key that concerns the format.

        Raises:
            ValueError: a target or an option that the format does not have.
        """
        for key, legal in self.choices.items():
            value = getattr(config, key)
            if len(legal) == 1 and value != legal[0]:
                raise ValueError(f"{key}={value} is a Core ML option; backend={self.name} takes {key}={legal[0]}.")
            check_choice(key, value, legal)
        if "projection" in config.options:
            raise ValueError(
                "options.projection: the projection of stage.projection=linear belongs to the loss of distillation and was "
                "dropped after training; a package holds the student alone, which needs none. Leave the word out."
            )
        if unknown := sorted(set(config.options) - set(self.options)):
            known = ", ".join(self.options) or "none"
            raise ValueError(f"backend={self.name} has no options {', '.join(unknown)}; it has: {known}.")
        for key, value in config.options.items():
            check_choice(f"options.{key}", value, self.options[key])
        check_choice("precision", config.precision, ("auto", "fp16", "fp32"))
        return self.default_precision if config.precision == "auto" else config.precision

    def option(self, config: ExportConfig, key: str) -> Any:
        """One of this format's own options, or its default."""
        return config.options.get(key, self.options[key][0])

    def executed(self, config: ExportConfig) -> str:
        """What executes the saved parts for the gate here, and what of them it does not, for the report."""
        return self.runner or self.title

    def system(self, config: ExportConfig) -> str:
        """The oldest system that loads the packages, or an empty text where files are not made for one."""
        return ""

    def wire(self, feature: Feature, precision: str) -> str:
        """The type that the feature has in a saved part: fp16, fp32, int32 or image. By default images are plain float32
        tensors (1, 3, S, S) in 0 ... 255."""
        return "fp32" if feature.kind == "image" else feature.dtype(precision)

    @abstractmethod
    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        """Convert every part and save it under `folder`."""

    @abstractmethod
    def load(self, saved: Saved, *, rounded: bool) -> Program:
        """Load a saved part back, to be executed on this machine.

        Args:
            rounded: round every result to the declared type; only formats with `rounds` care.
        """

    def rounds(self, precision: str) -> bool:
        """Can a saved part be executed both with and without rounding its results? Otherwise both are the same program."""
        return False

    def facts(self, saved: Saved) -> ProgramFacts:
        """What the saved program consists of."""
        return ProgramFacts()

    def activation_peaks(self, program: Program) -> Mapping[str, float]:
        """The largest magnitude of every fp16 result over all runs of a loaded program, by the operation's type and name, in
        program order; empty where the runtime does not show them."""
        return {}

    def usage(self, manifest: Manifest) -> str:
        """How an app uses the packages, as Markdown: a section of their README."""
        return render("usage.md.jinja", manifest=manifest, title=self.title)

    def findings(self, installed: Callable[[str], str | None]) -> list[Finding]:
        """What `edgetam doctor` should know about the packages of this format.

        Args:
            installed: version of a distribution, or None.
        """
        install = install_words(self.extra)
        found = [package_finding(name, installed(name), (self.name,), self.tested.get(name), install) for name in self.needs]
        return found + [package_finding(name, installed(name), (use,), None, install) for name, use in self.optional.items()]
