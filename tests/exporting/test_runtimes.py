"""Core AI, ExecuTorch and LiteRT: the same parts, judged by the same gate, executed by the runtimes that phones have."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from exported import Exported, export, forgetful, part_of, tiny

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import validate_on_mac
from edgetam_pl.exporting.backends import backend_of
from edgetam_pl.exporting.extras import MissingExtra
from edgetam_pl.exporting.litert import EIGHT_BITS, LiteRT
from edgetam_pl.exporting.manifest import read

MODULES = {"coreai": "coreai_torch", "executorch": "executorch", "litert": "litert_torch"}
FRAMES = 12


@pytest.fixture(scope="module", params=list(MODULES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export of a small model; Core AI's as one asset with a function per part."""
    pytest.importorskip(MODULES[request.param])
    cfg = ExportConfig(
        model=tiny(),
        backend=request.param,
        precision="fp32",
        multifunction=request.param == "coreai",
        gate=GateConfig(frames=FRAMES, short_frames=5),
    )
    return export(cfg, tmp_path_factory.mktemp("export") / "packages")


def test_all_frames_of_the_rollouts_equal_torch(exported: Exported) -> None:
    frames = exported.report.frames
    assert {row.frame for row in frames if row.rollout == "click"} == set(range(FRAMES))
    assert max(row.free_candidates for row in frames) < 1e-4  # torch with a bank of its own
    assert min(row.free_iou for row in frames) > 0.999


def test_the_gate_refuses_a_program_that_forgets(exported: Exported) -> None:
    failures = [str(measure) for measure in exported.judge({"track_step": forgetful}).failures]
    assert any(text.startswith("EdgeTAMTrackStep, full bank") for text in failures)


def test_an_asset_with_several_functions_is_one_file(exported: Exported) -> None:
    files = {part.file for part in read(exported.out).parts}
    assert len(files) == (1 if exported.cfg.backend == "coreai" else 4)


def test_a_program_refuses_other_inputs_than_its_own(exported: Exported) -> None:
    program = backend_of(exported.cfg.backend).load(exported.saved[0], rounded=False)
    with pytest.raises(ValueError, match=r"the program takes \['image'\]; given \['picture'\]"):
        program({"picture": torch.zeros(1, 3, 128, 128)})


def test_the_script_in_the_folder_holds_the_runtime_to_the_golden_files(exported: Exported) -> None:
    assert validate_on_mac.main([str(exported.out), "--runs", "1"]) == 0


@pytest.mark.parametrize("backend", list(MODULES))
def test_a_missing_extra_is_named_with_the_words_that_install_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    tools = backend_of(backend)
    with pytest.raises(MissingExtra, match=rf"pip install 'edgetam-pl\[{backend}\]'"):
        tools.convert([], None, ExportConfig(backend=backend))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["executorch", "litert"])
def test_half_precision_is_refused_where_the_runtime_has_none(backend: str) -> None:
    with pytest.raises(ValueError, match="precision"):
        backend_of(backend).precision(ExportConfig(backend=backend, precision="fp16"))


@pytest.mark.parametrize("way", EIGHT_BITS)
def test_litert_in_eight_bits_is_smaller_and_each_part_stays_near_torch(
    exported: Exported, way: str, tmp_path: Path
) -> None:
    """Part by part; changes and whole rollouts are for the gate to judge, on trained weights."""
    if exported.cfg.backend != "litert":
        pytest.skip("for LiteRT")
    saved = []
    for each in exported.saved:
        path = shutil.copyfile(each.path, tmp_path / each.path.name)
        LiteRT().quantize(path, EIGHT_BITS[way])
        saved.append(dataclasses.replace(each, path=path))
    small, large = (sum(each.path.stat().st_size for each in files) for files in (saved, exported.saved))
    assert small < 0.75 * large
    eight = dataclasses.replace(exported, cfg=dataclasses.replace(exported.cfg, compression="int8"))
    failures = [str(measure) for measure in eight.judge({}, saved=saved).failures]
    assert [text for text in failures if "relative error (" in text] == []


def test_an_operation_that_litert_lacks_is_named_with_its_part(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")

    class Rare(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ValueError, match=r"Layer uses aten\.special_bessel_j0\S*, which LiteRT's converter does not have"):
        LiteRT().convert([part_of(Rare(), ("x", (1, 4)))], tmp_path, ExportConfig(backend="litert"))
