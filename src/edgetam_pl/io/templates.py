"""Texts and pages made from the templates of a package: the folder `templates` beside its modules."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


@cache
def templates(package: str) -> Environment:
    """The templates of a package, by name. What is put into HTML is escaped; other texts are made of our own values."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )


def render(package: str, template: str, **values: object) -> str:
    """A template with `values` in it. A name that it uses and that is not given is an error."""
    return templates(package).get_template(template).render(**values)
