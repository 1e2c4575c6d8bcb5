"""Core AI, ExecuTorch and LiteRT: the same parts, judged by the same gate, executed by the runtimes that phones have."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Exported, export, forgetful, part_of, tiny
from torch import Tensor

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import validate_on_mac
from edgetam_pl.exporting.backends import backend_of
from edgetam_pl.exporting.client import PackagedTracker, RingBank
from edgetam_pl.exporting.clip import draw
from edgetam_pl.exporting.coreai import CoreAI, CoreAIProgram
from edgetam_pl.exporting.extras import MissingExtra
from edgetam_pl.exporting.litert import EIGHT_BITS, LiteRT
from edgetam_pl.exporting.manifest import read
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import ImageFeatures, Prompts

MODULES = {"coreai": "coreai_torch", "executorch": "executorch", "litert": "litert_torch"}
FORMATS = {name: (name, {}) for name in MODULES} | {
    "coreai, the bank as its state": ("coreai", {"bank": "state"}),
    "executorch, Core ML's delegate": ("executorch", {"delegate": "coreml"}),
}
FRAMES = 12


@pytest.fixture(scope="module", params=list(FORMATS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export of a small model; Core AI's as one asset with a function per part."""
    backend, options = FORMATS[request.param]
    pytest.importorskip(MODULES[backend])
    if options.get("delegate") == "coreml":
        pytest.importorskip("coremltools")
    cfg = ExportConfig(
        model=tiny(),
        backend=backend,
        options=dict(options),
        precision="fp32",
        multifunction=backend == "coreai",
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


def test_the_script_in_the_folder_holds_the_runtime_to_the_golden_files(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    on_apple_alone = exported.cfg.options.get("delegate") == "coreml"
    assert validate_on_mac.main([str(exported.out), "--runs", "1"]) == (3 if on_apple_alone else 0)
    assert not on_apple_alone or "Copy this folder to a Mac" in capsys.readouterr().out


def test_the_report_says_what_was_executed_and_what_was_not(exported: Exported) -> None:
    said = exported.report.executed
    if exported.cfg.options.get("delegate") == "coreml":
        assert "taken out of each saved .pte" in said
        assert "the .pte files themselves were not executed" in said
    else:
        assert "runtime" in said
    assert said in exported.report.table()


def test_where_the_bank_is_the_runtimes_state_no_memory_goes_in_or_out(exported: Exported) -> None:
    if exported.cfg.options.get("bank") != "state":
        pytest.skip("for the bank as state")
    parts, loop = {part.role: part for part in read(exported.out).parts}, exported.loop
    for role in ("track_step", "memory_encoder"):
        (state,) = parts[role].states
        assert state.shape == (1, loop.num_memories, loop.tokens, loop.memory_dim)
        assert {"memory_slot"} <= {feature.name for feature in parts[role].inputs}
    assert "memory" not in {feature.name for feature in parts["track_step"].inputs}
    assert parts["image_encoder"].states == parts["prompt_decoder"].states == ()


def test_the_state_lives_from_one_call_to_the_next(exported: Exported) -> None:
    """Over a rollout nothing is copied into it: every memory that a frame reads was written there by a program."""
    if exported.cfg.options.get("bank") != "state":
        pytest.skip("for the bank as state")
    backend = CoreAI()
    programs = {each.part.role: backend.load(each, rounded=False) for each in exported.saved}
    tracker, size = PackagedTracker(programs, exported.loop), exported.loop.size
    clip, given = draw(FRAMES, size, seed=0), Prompts(torch.tensor([[[size / 2, size / 2]]]), torch.tensor([[1]]))

    def features(t: int) -> ImageFeatures:
        return tracker.encode(clip.frame(t))

    rollout(tracker, features, Script({0: [given]}), num_frames=FRAMES, bank=RingBank(exported.loop))  # type: ignore[arg-type]
    assert backend.slots is not None
    assert backend.slots.copied == 0


@pytest.mark.parametrize("role", ["track_step", "memory_encoder"])
def test_a_runtime_that_forgets_its_state_is_refused(exported: Exported, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if exported.cfg.options.get("bank") != "state":
        pytest.skip("for the bank as state")
    run = CoreAIProgram.call

    def forgets(self: CoreAIProgram, inputs: Mapping[str, Tensor], states: Mapping[str, Any]) -> dict[str, Tensor]:
        forgotten = {name: self.new_slots().array for name in states} if self.name == role else states
        return run(self, inputs, forgotten)

    monkeypatch.setattr(CoreAIProgram, "call", forgets)
    loaded_by_one_backend = {each.part.role: lambda program: program for each in exported.saved}
    failures = [str(measure) for measure in exported.judge(loaded_by_one_backend).failures]
    assert any(text.startswith("EdgeTAMTrackStep, rollout click") for text in failures)


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
