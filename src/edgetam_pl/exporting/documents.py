"""Texts made from the templates in `templates/`, and the README of the packages."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgetam_pl.exporting.manifest import Manifest

_TEMPLATES = Environment(
    loader=PackageLoader("edgetam_pl.exporting"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
"""Markdown and plain text made from our own values: nothing is escaped."""


def render(template: str, **values: object) -> str:
    """The template of that name, with `values` in it. A name that the template uses and that is not given is an error."""
    return _TEMPLATES.get_template(template).render(**values)


def readme(manifest: Manifest, usage: str) -> str:
    """The README of the packages, for the developer of the app: what the files are, the loop, how to use and measure it.

    Args:
        usage: the section of the format (`Backend.usage`).
    """
    target = ", ".join(word for word in (manifest.backend, manifest.precision, manifest.system) if word)
    return render("README.md.jinja", manifest=manifest, spec=manifest.loop, target=target, usage=usage.strip())
