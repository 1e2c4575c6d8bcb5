"""Rules about the code that a machine can check."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
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
    allowed = {"weights/names.py"}
    offenders = [p.name for p in SOURCES if "/".join(p.parts[-2:]) not in allowed and banned.search(p.read_text())]
    assert not offenders


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = grimp.build_graph("edgetam_pl", exclude_type_checking_imports=True)
    names = graph.modules - {"edgetam_pl"}  # the face imports late, and its submodules want its version or its folder
    imported = {name: graph.find_modules_directly_imported_by(name) & names for name in names}
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_the_package_root_holds_nouns_schema_builders_and_the_face() -> None:
    found = {path.name for path in (ROOT / "src" / "edgetam_pl").glob("*.py")}
    assert found == {"__init__.py", "api.py", "build.py", "types.py"}


RENAMED = {
    "Ask", "Said", "heard", "KeptF16", "Thrift", "Taken", "hold_still", "quietly", "Leash", "Apart", "SpeltOut", "Parcel",
    "Look", "telling_points", "beaten", "alone_in", "room_in", "placeless", "weights_for", "locality",
}  # fmt: skip
"""Identifiers of earlier versions that say less than the field's own terms."""

OLD_FILES = {
    "eyes", "beside", "spoken", "said", "kept", "follower", "follow", "demo_page", "fast", "recompute", "stopping", "early",
    "propose", "space", "faults", "order", "own", "utils",
}  # fmt: skip
"""Names of modules of earlier versions, likewise."""


def test_old_identifiers_are_gone() -> None:
    """They remain only where a person who types one is told the new name."""
    told = {"weights_for", "locality"}
    offenders = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, key, None) for key in ("id", "attr", "name", "arg")}
            names |= {name.name for name in getattr(node, "names", ()) if isinstance(name, ast.alias)}
            offenders += [f"{path.name}: {name}" for name in names & RENAMED]
        words = told & set(re.findall(r"\w+", path.read_text()))
        offenders += [f"{path.name}: {word}" for word in words if path.name != "compose.py"]
    assert not offenders
    assert not [path for path in SOURCES if path.stem in OLD_FILES]


PRIVATE_REFERENCES = re.compile(r"\b(trap \d+|house rule|training facts \d+|F\d\d in the notes)\b", re.IGNORECASE)


def test_nothing_refers_to_documents_that_are_not_here() -> None:
    """Comments and pages speak for themselves."""
    places = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    assert not [path for path in places if path != Path(__file__) and PRIVATE_REFERENCES.search(path.read_text())]
