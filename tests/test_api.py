"""The public face: what docs/api.md shows runs as it stands, and importing the package costs nothing."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import edgetam_pl as et

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_block_of_the_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), flags=re.S)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert (tmp_path / "runs" / "first" / "weights.pt").is_file()
    assert (tmp_path / "runs" / "first" / "evaluation" / "report.html").is_file()


def test_every_public_name_is_there() -> None:
    assert all(getattr(et, name) is not None for name in et.__all__)
    assert set(et.__all__) <= set(dir(et))
    with pytest.raises(AttributeError, match=r"it has .*load_model"):
        et.nonsense  # noqa: B018


def test_no_public_name_is_a_module_too() -> None:
    """Importing edgetam_pl.NAME sets that attribute of the package, and the function of this name would be gone."""
    rooms = {module.name for module in pkgutil.iter_modules(et.__path__)}
    assert not rooms & set(et.__all__)


def test_importing_the_package_imports_nothing_large() -> None:
    large = "{'torch', 'numpy', 'hydra', 'lightning', 'cv2', 'matplotlib'} & sys.modules.keys()"
    program = f"import sys, edgetam_pl; found = {large}; sys.exit(str(found) if found else 0)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_random_weights_are_the_seeds_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (et.load_model("toy", "random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    different = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert not all(different)
    assert not first.training


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: et.load_model("edgtam"), "Did you mean edgetam?"),
        (lambda: et.load_model("toy", ""), "No weights were given for toy."),
        (lambda: et.load_model("toy", "nowhere.pt"), "nowhere.pt"),
        (lambda: et.train(modle="toy"), "Did you mean model?"),
        (lambda: et.train("stage.distance=mes"), "Did you mean mse?"),
        (lambda: et.shards(source="toy", chroma="440"), "chroma is 440; use one of 420, 422, 444"),
    ],
)
def test_a_mistake_is_one_sentence(call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=re.escape(named)):
        call()
