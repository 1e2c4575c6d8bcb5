"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_no_file_is_called_utils() -> None:
    assert not [path for path in SOURCES if "util" in path.stem]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("package", ["model", "tracking"])
def test_training_mode_is_not_a_hidden_argument(package: str) -> None:
    offenders = [path for path in (ROOT / "src/edgetam_pl" / package).rglob("*.py") if "self.training" in path.read_text()]
    assert not offenders


def test_nothing_swallows_every_exception() -> None:
    """A handler of everything must raise again, or say what it caught: its exception has a name and the name is used."""
    swallowing = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            used = {name.id for part in node.body for name in ast.walk(part) if isinstance(name, ast.Name)}
            raises = any(isinstance(part, ast.Raise) for part in node.body)
            if broad and not raises and node.name not in used:
                swallowing.append(f"{path.name}:{node.lineno}")
    assert not swallowing


def test_words_of_the_reference_code_are_not_ours() -> None:
    """The glossary's right column is used; upstream's names appear only where its keys are translated."""
    banned = re.compile(r"\b(cond_frame_outputs|backbone_out|vision_feats|maskmem_features|tpos_enc)\b")
    allowed = {"weights.py"}
    offenders = [p.name for p in SOURCES if p.name not in allowed and banned.search(p.read_text())]
    assert not offenders
