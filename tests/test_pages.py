"""Pages open without a network: no template asks another host for anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edgetam_pl

TEMPLATES = sorted(
    path
    for path in Path(edgetam_pl.__file__).parent.glob("**/templates/*")
    if path.suffix in {".html", ".css", ".js"}
)  # fmt: skip
ELSEWHERE = re.compile(r"""(?:https?:)?//[\w-]+\.[\w.-]+|@import|<base\b|url\((?!\s*['"]?(?:data:|#))""")


def test_all_pages_are_looked_at() -> None:
    names = {path.name for path in TEMPLATES}
    assert {"app.html", "app.js", "report.html", "run.html", "comparison.html", "demo.html", "style.css"} <= names


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_page_asks_no_other_host(path: Path) -> None:
    assert not ELSEWHERE.findall(path.read_text())


@pytest.mark.parametrize("bad", ['<script src="//cdn.example.org/a.js">', "@import 'a.css'", "fetch('https://a.org/b')"])
def test_a_page_that_did_would_be_found(bad: str) -> None:
    assert ELSEWHERE.findall(bad)
