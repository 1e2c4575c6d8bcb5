"""A format that nobody has heard of: one file and its registration, and `edgetam export` does the rest, gate included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from exported import tiny
from smallest import SMALL
from torch import Tensor

from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.main import main
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend, ProgramFacts
from edgetam_pl.exporting.backends import BACKENDS
from edgetam_pl.exporting.client import PackagedTracker
from edgetam_pl.exporting.manifest import read
from edgetam_pl.exporting.parts import Part, Program, Saved
from edgetam_pl.exporting.run import ExportRefused, run
from edgetam_pl.sweeps.cost import package_bytes

# --- what such a file holds -----------------------------------------------------------------------------------------------


class TorchPrograms(Backend):
    """torch.export programs (.pt2): for machines that have torch and not this project."""

    name = "pt2"
    title = "torch runtime"
    suffix = ".pt2"
    needs = ("torch",)
    options = {"strict": (False, True)}  # noqa: RUF012

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        saved = []
        for part in parts:
            path = folder / f"{part.name}{self.suffix}"
            with torch.no_grad():
                program = torch.export.export(part.module, part.example(), strict=self.option(config, "strict"))
            torch.export.save(program, path)
            saved.append(Saved(part, path))
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> Program:
        return Loaded(saved.path, saved.part)

    def facts(self, saved: Saved) -> ProgramFacts:
        nodes = [node for node in torch.export.load(saved.path).graph.nodes if node.op == "call_function"]
        rank = max(node.meta["val"].ndim for node in nodes if isinstance(node.meta.get("val"), Tensor))
        return ProgramFacts(tuple(sorted({str(node.target) for node in nodes})), len(nodes), rank)


class Loaded:
    """A saved part under torch."""

    def __init__(self, path: Path, part: Part) -> None:
        self.module, self.part = torch.export.load(path).module(), part

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.part.named(self.module(*(inputs[feature.name] for feature in self.part.inputs)))


# --- what comes of it -----------------------------------------------------------------------------------------------------

WORDS = (
    "model=toy", *SMALL, "weights=random", "backend=pt2", "+options.strict=false", "gate.frames=4", "gate.short_frames=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def registered() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "pt2", TorchPrograms)
        yield


@pytest.fixture(scope="module")
def packages(registered: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command itself, as a user would type it."""
    out = tmp_path_factory.mktemp("export") / "packages"
    assert main(["export", *WORDS, f"out={out}"]) == 0
    return out


def test_the_command_exports_judges_and_describes_it(packages: Path) -> None:
    manifest = read(packages)
    assert (manifest.backend, manifest.precision, manifest.system) == ("pt2", "fp32", "")
    assert sorted(path.suffix for path in packages.iterdir() if path.suffix == ".pt2") == [".pt2"] * 4
    assert json.loads((packages / "export_report.json").read_text())["passed"]
    assert "Any torch runtime plays these files" in (packages / "README.md").read_text()
    assert min(cost["operations"] for cost in manifest.estimate["parts"]) > 10
    assert package_bytes(packages.parent) == sum(path.stat().st_size for path in packages.glob("*.pt2"))


def test_its_packages_run_in_the_loop(packages: Path) -> None:
    manifest = read(packages)
    part = Part("", "", torch.nn.Identity(), (), (), "")
    programs = {}
    for entry in manifest.parts:
        named = Part(entry.name, entry.role, part.module, entry.inputs, entry.outputs, "")  # type: ignore[arg-type]
        programs[entry.role] = TorchPrograms().load(Saved(named, packages / entry.file), rounded=False)
    size = manifest.loop.size
    features = PackagedTracker(programs, manifest.loop).encode(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert features.f16.shape == (1, manifest.loop.dim, manifest.loop.feature, manifest.loop.feature)


def test_the_gate_refuses_it_like_any_other(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(self: TorchPrograms, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        """The same model's files, which are there already."""
        names = [f"{part.name}{self.suffix}" for part in parts]
        return tuple(Saved(part, shutil.copyfile(packages / name, folder / name)) for part, name in zip(parts, names))

    def forgetful(self: TorchPrograms, saved: Saved, *, rounded: bool) -> Program:
        program = Loaded(saved.path, saved.part)
        if saved.part.role != "track_step":
            return program
        return lambda inputs: program({**inputs, "obj_ptr_valid": inputs["obj_ptr_valid"] * 0})

    monkeypatch.setattr(TorchPrograms, "convert", convert)
    monkeypatch.setattr(TorchPrograms, "load", forgetful)
    with pytest.raises(ExportRefused, match="EdgeTAMTrackStep"):
        run(composed(ExportConfig, command="export", overrides=[*WORDS, f"out={tmp_path / 'out'}"])[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"strict": "perhaps"}}, "options.strict is perhaps; use one of False, True"),
        ({"options": {"quick": True}}, "backend=pt2 has no options quick; it has: strict"),
        ({"compression": "int8"}, "compression=int8 is a Core ML option; backend=pt2 takes compression=none"),
    ],
)
def test_its_options_are_checked_before_anything_is_converted(
    registered: object, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    cfg = ExportConfig(model=tiny(), weights="random", backend="pt2", out=str(tmp_path / "out"), **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        run(cfg)
    assert list(tmp_path.iterdir()) == []
