"""Texts made from the templates in `templates/`, and the README of the packages."""

from __future__ import annotations

from functools import partial

from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.io import templates

render = partial(templates.render, "edgetam_pl.exporting")


def readme(manifest: Manifest, usage: str, *, phone: bool = True) -> str:
    """The README of the packages, for the developer of the app: what the files are, the loop, how to use and measure it.

    Args:
        usage: the section of the format (`Backend.usage`).
        phone: say how speed is measured on a phone.
    """
    target = ", ".join(word for word in (manifest.backend, manifest.precision, manifest.system) if word)
    files = sum({part.file: part.bytes for part in manifest.parts}.values())  # several functions may share one
    return render(
        "README.md.jinja",
        manifest=manifest,
        spec=manifest.loop,
        target=target,
        files=files,
        usage=usage.strip(),
        phone=phone,
    )
