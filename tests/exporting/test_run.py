"""Core ML export, whole: packages of a small model, judged, played back, and refused when anything about them is wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from exported import Exported, export, tiny
from torch import Tensor

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import mil_interpreter
from edgetam_pl.exporting.client import PackagedTracker, RingBank
from edgetam_pl.exporting.clip import draw, scenarios
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.gate.measures import Verdict
from edgetam_pl.exporting.manifest import Manifest, read
from edgetam_pl.exporting.mil_interpreter import OPERATIONS, Interpreter, load_program
from edgetam_pl.exporting.parts import Program
from edgetam_pl.exporting.run import REPORT, ExportRefused, export_packages
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import EMPTY_RECALL, Prompts

ct = pytest.importorskip("coremltools")

ROLES = ("image_encoder", "prompt_decoder", "memory_encoder", "track_step")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export of a small model for iOS 17 in fp16, with the full gate of 64 frames."""
    out = tmp_path_factory.mktemp("export") / "packages"
    return export(ExportConfig(model=tiny()), out)


@pytest.fixture(scope="module")
def manifest(exported: Exported) -> Manifest:
    return read(exported.out)


# --- what is shipped ------------------------------------------------------------------------------------------------------


def test_an_export_that_passes_ships_packages_contract_golden_files_and_instructions(exported: Exported) -> None:
    assert exported.report.passed
    assert {path.name for path in exported.out.iterdir()} == {
        "EdgeTAMImageEncoder.mlpackage",
        "EdgeTAMPromptDecoder.mlpackage",
        "EdgeTAMMemoryEncoder.mlpackage",
        "EdgeTAMTrackStep.mlpackage",
        "README.md",
        "export_report.json",
        "golden",
        "manifest.json",
        "validate_on_mac.py",
    }
    assert [path.name for path in exported.out.parent.iterdir()] == ["packages"]  # nothing half-written is left


def test_f29_the_rollouts_of_the_gate_last_64_frames_and_hold_what_they_promise(exported: Exported) -> None:
    """Occlusion, exit, re-entry and corrections; judged frame by frame, and left to themselves."""
    frames = exported.report.frames
    click = [row for row in frames if row.rollout == "click"]
    assert {row.rollout for row in frames} == {"click", "box", "mask"}
    assert {row.frame for row in click} == set(range(64))
    assert len(click) == 64 + 3  # three corrections on two frames, each answered again
    assert sum(row.pixels > 0 for row in frames) > 60  # there was something to compare
    assert min(row.iou for row in frames) >= 0.95
    assert min(row.free_iou for row in frames) >= 0.95
    assert max(row.free_candidates for row in frames) < 0.1


def test_f28_banks_that_are_not_full_are_judged_on_every_frame_from_one_to_ten(exported: Exported) -> None:
    """After a click, after a box with a second one in the future, after a mask: each bank fills in its own way."""
    for name, last in (("click", 10), ("box", 9), ("mask", 9)):
        rows = {row.frame: row for row in exported.report.frames if row.rollout == name}
        for t in range(1, last + 1):
            assert rows[t].f_m < 0.01, (name, t)
            assert rows[t].candidates < 0.02, (name, t)


def test_f30_points_boxes_and_masks_are_judged_each(exported: Exported) -> None:
    assert exported.report.passed
    clip = draw(64, 128, seed=0)
    given = {each.name: [entry for entries in each.entries.values() for entry in entries if entry] for each in
            scenarios(clip, short_frames=10)}  # fmt: skip
    kinds = {name: {label for entry in entries_of if entry.labels is not None for label in entry.labels.flatten().tolist()}
             for name, entries_of in given.items()}  # fmt: skip
    assert kinds == {"click": {0, 1}, "box": {2, 3}, "mask": {1}}
    assert given["mask"][0].mask is not None
    assert {row.rollout for row in exported.report.frames} == set(given)


def test_the_report_says_that_no_apple_hardware_was_involved(exported: Exported, manifest: Manifest) -> None:
    report = json.loads((exported.out / "export_report.json").read_text())
    assert report["apple_hardware"] == manifest.apple_hardware == "not run on Apple hardware"
    assert "not run on Apple hardware" in exported.report.table()
    assert "Not run on Apple hardware" in (exported.out / "README.md").read_text()


def test_the_manifest_says_what_the_packages_say(exported: Exported, manifest: Manifest) -> None:
    kinds = {65552: "fp16", 65568: "fp32", 131104: "int32"}  # ArrayFeatureType of the Core ML specification
    for entry in manifest.parts:
        spec = ct.utils.load_spec(str(exported.out / entry.file))
        for side, features in ((spec.description.input, entry.inputs), (spec.description.output, entry.outputs)):
            assert [feature.name for feature in side] == [feature.name for feature in features]
            for described, feature in zip(side, features, strict=True):
                assert described.shortDescription == feature.meaning
                if feature.dtype == "image":
                    assert (described.type.imageType.height, described.type.imageType.width) == feature.shape[-2:]
                    assert described.type.imageType.colorSpace == 20  # RGB
                else:
                    assert kinds[described.type.multiArrayType.dataType] == feature.dtype
                    assert tuple(described.type.multiArrayType.shape) == feature.shape
        assert spec.description.metadata.userDefined["edgetam_pl.role"] == entry.role
        assert entry.sha256 == sha256_of(exported.out / entry.file, ignore=CoreML.volatile)
        assert entry.bytes > 10_000
    assert manifest.parity
    assert manifest.versions["coremltools"] == "9.0"


def test_names_and_shapes_are_those_of_the_contract(manifest: Manifest) -> None:
    loop, c, d = manifest.loop, 32, 16
    shapes = {
        role: ({f.name: f.shape for f in manifest.part(role).inputs}, {f.name: f.shape for f in manifest.part(role).outputs})
        for role in ROLES
    }
    features = {"vision_features": (1, c, 8, 8)}
    finer = {"feats_s0": (1, 4, 32, 32), "feats_s1": (1, 8, 16, 16)}
    assert shapes["image_encoder"] == (
        {"image": (1, 3, 128, 128)},
        {"image_embedding": (1, c, 8, 8), **features, **finer},
    )
    assert shapes["prompt_decoder"] == (
        {
            "image_embedding": (1, c, 8, 8), **finer, "points": (1, 8, 2), "labels": (1, 8),
            "mask_input": (1, 1, 32, 32), "has_mask": (1,),
        },
        {"low_res_masks": (1, 4, 32, 32), "iou_scores": (1, 4), "obj_ptrs": (1, 4, c), "obj_score": (1, 1)},
    )  # fmt: skip
    given = {"mask_logits": (1, 1, 32, 32), "binarize": (1,)}
    assert shapes["memory_encoder"] == ({**features, **given}, {"memory": (1, 32, d)})
    assert shapes["track_step"] == (
        {
            **features, **finer, "memory": (1, 7, 32, d), "memory_age": (1, 7), "obj_ptrs": (1, 16, c),
            "obj_ptr_valid": (1, 16),
        },
        {
            "low_res_mask": (1, 1, 32, 32), "iou_score": (1, 1), "obj_score": (1, 1), "obj_ptr": (1, c),
            "memory_out": (1, 32, d), "image_embedding": (1, c, 8, 8),
        },
    )  # fmt: skip
    assert loop.tokens == 32


def test_f24_graphs_have_at_most_four_dimensions_and_only_known_operations(exported: Exported, manifest: Manifest) -> None:
    """No high ranks, no dynamic shapes, no gathers; a new operation has to be looked at first."""
    for entry in manifest.parts:
        function = load_program(exported.out / entry.file).functions["main"]
        found = [operation for operation in function.operations if operation.op_type != "const"]
        assert {operation.op_type for operation in found} <= set(OPERATIONS)
        assert max(len(var.shape) for operation in found for var in operation.outputs) <= 4
        forbidden = {"non_zero", "gather", "gather_nd", "scatter", "scatter_nd", "shape", "while_loop", "cond"}
        assert not forbidden & {operation.op_type for operation in found}
        assert all(isinstance(side, int) for operation in found for var in operation.outputs for side in var.shape)


def test_f22_memory_attention_converts_although_its_rotations_were_complex_once(exported: Exported) -> None:
    """Rotations are real, from tables; nothing is created or cached in forward."""
    function = load_program(exported.out / "EdgeTAMTrackStep.mlpackage").functions["main"]
    assert "softmax" in {operation.op_type for operation in function.operations}


def test_f26_attention_is_spelt_out_unless_asked_otherwise(exported: Exported) -> None:
    """The fused operation has been wrong on GPUs for batches of ten and more; the 2-D branch has one per window."""
    for role in ("PromptDecoder", "MemoryEncoder", "TrackStep"):
        function = load_program(exported.out / f"EdgeTAM{role}.mlpackage").functions["main"]
        assert "scaled_dot_product_attention" not in {operation.op_type for operation in function.operations}


def test_f25_coordinates_stay_in_single_precision_until_their_sine(exported: Exported) -> None:
    """Half precision steps by half a pixel above 512."""
    from coremltools.converters.mil.mil import types

    function = load_program(exported.out / "EdgeTAMPromptDecoder.mlpackage").functions["main"]
    angles = [operation for operation in function.operations if operation.op_type in {"sin", "cos"}]
    assert len(angles) == 2
    assert all(operation.x.dtype == types.fp32 for operation in angles)


def test_f25_every_constant_fits_into_half_precision(exported: Exported, manifest: Manifest) -> None:
    """No minus infinity and no -1e9 hides what is not there: -1e4 does."""
    for entry in manifest.parts:
        function = load_program(exported.out / entry.file).functions["main"]
        values = [operation.outputs[0].val for operation in function.operations if operation.op_type == "const"]
        numbers = [np.asarray(value) for value in values if np.asarray(value).dtype.kind == "f"]
        assert numbers
        assert max(np.abs(value).max() for value in numbers if value.size) <= 1e4


def test_f27_normalisation_is_inside_and_per_channel(exported: Exported) -> None:
    """Raw pixels in; Core ML's image input has a single scale, and three channels need three."""
    spec = ct.utils.load_spec(str(exported.out / "EdgeTAMImageEncoder.mlpackage"))
    assert spec.description.input[0].type.WhichOneof("Type") == "imageType"
    run_it = Interpreter.load(exported.out / "EdgeTAMImageEncoder.mlpackage", rounded=False)
    pixels = torch.randint(0, 256, (1, 3, 128, 128), generator=torch.Generator().manual_seed(3))
    value = run_it({"image": pixels.float()})["vision_features"]
    truth = exported.model.encode(exported.model.normalise(pixels.to(torch.uint8))).f16
    assert (value - truth).abs().max() < 5e-3 * truth.abs().max()


# --- the packages as a tracker --------------------------------------------------------------------------------------------


def _programs(exported: Exported, manifest: Manifest) -> dict[str, Program]:
    return {entry.role: Interpreter.load(exported.out / entry.file, rounded=True) for entry in manifest.parts}


def test_a_client_that_knows_only_the_folder_tracks_like_the_model(exported: Exported, manifest: Manifest) -> None:
    tracker = PackagedTracker(_programs(exported, manifest), manifest.loop)
    frames = torch.randint(0, 256, (9, 3, 128, 128), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    click = Prompts(torch.tensor([[[40.0, 60.0]]]), torch.tensor([[1]]))
    bank = RingBank(manifest.loop)
    ours = rollout(tracker, lambda t: tracker.encode(frames[t : t + 1]), Script({0: [click]}), num_frames=9, bank=bank)  # type: ignore[arg-type]
    model = exported.model
    with torch.no_grad():
        from edgetam_pl.tracking.bank import MemoryBank

        theirs = rollout(
            model,
            lambda t: model.encode(model.normalise(frames[t : t + 1])),
            Script({0: [click]}),
            num_frames=9,
            bank=MemoryBank(),
        )
    for a, b in zip(ours, theirs, strict=True):
        assert ((a.final.best > 0) == (b.final.best > 0)).float().mean() > 0.99
        torch.testing.assert_close(a.f_m, b.f_m, rtol=0, atol=0.02 * b.f_m.abs().max().item())


def test_f33_an_object_added_at_frame_five_leaves_the_first_unchanged(exported: Exported, manifest: Manifest) -> None:
    """Objects share the image features and nothing else."""
    tracker = PackagedTracker(_programs(exported, manifest), manifest.loop)
    frames = torch.randint(0, 256, (8, 3, 128, 128), generator=torch.Generator().manual_seed(6)).to(torch.uint8)
    first = Prompts(torch.tensor([[[40.0, 60.0]]]), torch.tensor([[1]]))
    second = Prompts(torch.tensor([[[90.0, 20.0]]]), torch.tensor([[1]]))

    def track(banks: list[RingBank], prompts_of: list[Mapping[int, Prompts]]) -> list[list[Tensor]]:
        answers: list[list[Tensor]] = [[] for _ in banks]
        for t in range(8):
            features = tracker.encode(frames[t : t + 1])
            for which, bank in enumerate(banks):
                prompts = prompts_of[which].get(t)
                recall = bank.recall(t) if prompts is None else EMPTY_RECALL
                if prompts is None and not recall.frames:
                    continue
                f_m = tracker.attend(features.f16, recall)
                decoded = tracker.decode(f_m, features, prompts)
                memory = tracker.memorize(features.f16, decoded)
                banks[which] = bank.write(t, memory, prompted=prompts is not None)
                answers[which].append(decoded.best)
        return answers

    alone = track([RingBank(manifest.loop)], [{0: first}])[0]
    together = track([RingBank(manifest.loop), RingBank(manifest.loop)], [{0: first}, {5: second}])
    assert len(together[1]) == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, together[0], strict=True))


# --- the gate can fail, in ways that only Core ML has (all others: gate/test_mutations.py) -------------------------


def _refused(verdict: Verdict, part: str) -> None:
    """The gate must name the part in its part by part check, and a frame of a rollout."""
    texts = [str(measure) for measure in verdict.failures]
    assert texts, "the gate let it pass"
    assert any(text.startswith(part) and "rollout" not in text for text in texts), texts
    assert any("frame" in text and "rollout" in text for text in texts), texts


def test_a_flipped_weight_is_refused(exported: Exported, tmp_path: Path) -> None:
    changed = []
    for saved in exported.saved:
        path = tmp_path / saved.path.name
        shutil.copytree(saved.path, path)
        changed.append(saved.__class__(saved.part, path, saved.function))
    weights = dict(exported.parts["track_step"].module.named_parameters())
    needle = weights["model.memory_attention.blocks.0.ffn_out.weight"].numpy().astype(np.float16).tobytes()
    for name in ("EdgeTAMTrackStep",):
        file = tmp_path / f"{name}.mlpackage" / mil_interpreter.WEIGHTS_FOLDER / "weight.bin"
        data = file.read_bytes()
        assert data.count(needle) == 1
        flipped = (-np.frombuffer(needle, np.float16)).tobytes()
        file.write_bytes(data.replace(needle, flipped))
    _refused(exported.judge({}, saved=changed), "EdgeTAMTrackStep")


def test_f25_a_half_precision_overflow_is_refused_and_its_operation_named(exported: Exported) -> None:
    """The same function in fp32, but the values between two layers do not fit into half precision."""

    def scale(program: Program) -> Program:
        assert isinstance(program, Interpreter)
        block = "p_model_memory_attention_blocks_0_"
        for name, value in program._constants.items():
            if name.startswith((f"{block}ffn_in_weight", f"{block}ffn_in_bias")):
                program._constants[name] = value.astype(np.float32) * 1e5
            if name.startswith(f"{block}ffn_out_weight"):
                program._constants[name] = value.astype(np.float32) * 1e-5
        return program

    verdict = exported.judge({"track_step": scale})
    _refused(verdict, "EdgeTAMTrackStep")
    exact = [measure for measure in verdict.measures if "fp32 arithmetic" in measure.what]
    assert all(measure.ok for measure in exact)  # in fp32 it is the same function
    peaks = [measure for measure in verdict.failures if measure.what == "largest fp16 activation"]
    (peak,) = [measure for measure in peaks if measure.part == "EdgeTAMTrackStep"]
    assert peak.where.startswith(("linear", "relu"))
    assert peak.value > 65504


def test_a_model_that_hardly_drifts_by_itself_excuses_no_drift(exported: Exported) -> None:
    """Beyond the bounds, torch with rounded weights is the measure; this model's own drift is too small to widen them."""

    def other(program: Program) -> Program:
        return lambda inputs: {name: value.roll(4, -1) for name, value in program(inputs).items()}

    tolerance = GateConfig().half
    failures = exported.judge({"track_step": other}).failures
    assert {measure.bound for measure in failures if "left to itself" in measure.what} == {tolerance.free, tolerance.iou}


# --- refusals leave things as they were -----------------------------------------------------------------------------------


def test_a_refused_export_leaves_no_package_and_writes_its_numbers_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported
) -> None:
    out = tmp_path / "packages"
    reused = [saved.path for saved in exported.saved]

    def convert(self: CoreML, parts: object, folder: Path, config: ExportConfig) -> tuple[object, ...]:
        for path in reused:
            shutil.copytree(path, folder / path.name)
        return tuple(saved.__class__(saved.part, folder / saved.path.name) for saved in exported.saved)

    monkeypatch.setattr(CoreML, "convert", convert)
    cfg = ExportConfig(model=exported.cfg.model, gate=GateConfig(frames=4, short_frames=4))
    cfg.gate.half.part = 1e-9  # nothing passes this
    with pytest.raises(ExportRefused, match=r"EdgeTAMImageEncoder, frame 0, output \w+: relative error") as refused:
        export_packages(exported.model, out, cfg)
    assert [path.name for path in tmp_path.iterdir()] == ["packages.refused.json"]
    assert not refused.value.report.passed
    assert json.loads((tmp_path / "packages.refused.json").read_text())["failures"]

    cfg.gate.half.part = 5e-2
    export_packages(exported.model, out, cfg)
    before = sha256_of(out / "manifest.json")
    cfg.gate.half.part = 1e-9
    with pytest.raises(ExportRefused):
        export_packages(exported.model, out, cfg)
    assert sha256_of(out / "manifest.json") == before  # what passed earlier still stands


# --- the validator for the Mac --------------------------------------------------------------------------------------------


def _validator(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("validate_on_mac", folder / "validate_on_mac.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _predict(programs: Mapping[str, Program]) -> Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    def predict(role: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        integers = ("labels", "memory_age")
        tensors = {name: value if name in integers else value.float() for name, value in tensors.items()}
        return {name: value.numpy() for name, value in programs[role](tensors).items()}

    return predict


def test_the_validator_plays_the_golden_files_with_its_own_loop(exported: Exported, manifest: Manifest) -> None:
    """Its numpy client is a second reading of the manifest: it must come to the same masks, mask prompts included."""
    report = _validator(exported.out).validate(exported.out, _predict(_programs(exported, manifest)))
    assert report["failures"] == []
    rollouts = [row for row in report["rows"] if "iou" in row]
    assert len(rollouts) == len(exported.report.frames)
    assert min(row["iou"] for row in rollouts) > 0.97


def test_the_validator_refuses_other_numbers(exported: Exported, manifest: Manifest) -> None:
    programs = _programs(exported, manifest)
    honest = programs["track_step"]
    programs["track_step"] = lambda inputs: {name: value.roll(3, -1) for name, value in honest(inputs).items()}
    report = _validator(exported.out).validate(exported.out, _predict(programs), frames=4)
    assert not report["passed"]
    assert any(row["part"] == "track_step" for row in report["failures"])
    assert any("rollout click, frame 1" in row["where"] for row in report["failures"])


class _Model:
    """A Core ML model as the validator sees it on a Mac."""

    compute_unit = "CPU_AND_GPU"

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(inputs)

    def get_compiled_model_path(self) -> str:
        return "compiled"


def test_f34_the_validator_tells_median_p95_and_worst_and_where_each_operation_would_run(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes, and operations that fall to the CPU on the phone alone, show only there; the script is ready for it."""
    from coremltools.models import compute_plan

    operations = [SimpleNamespace(device=name) for name in ("MLNeuralEngineComputeDevice", "MLCPUComputeDevice", None)]
    block = SimpleNamespace(operations=[operations[0], *operations])

    def usage(operation: SimpleNamespace) -> SimpleNamespace | None:
        if operation.device is None:
            return None
        return SimpleNamespace(preferred_compute_device=type(operation.device, (), {})())

    plan = SimpleNamespace(
        model_structure=SimpleNamespace(program=SimpleNamespace(functions={"main": SimpleNamespace(block=block)})),
        get_compute_device_usage_for_mlprogram_operation=usage,
    )
    monkeypatch.setattr(compute_plan.MLComputePlan, "load_from_path", staticmethod(lambda path, units: plan))
    module = _validator(exported.out)
    programs = module.CoreMLPrograms.__new__(module.CoreMLPrograms)
    programs.models, programs.wire = {"track_step": _Model()}, {"track_step": {"x": "fp16"}}
    programs.states = {"track_step": {}}
    spent = programs.time("track_step", {"x": np.zeros(3)}, 20)
    assert 0 < spent["median"] <= spent["p95"] <= spent["max"]
    assert programs.plan("track_step") == {"MLNeuralEngineComputeDevice": 2, "MLCPUComputeDevice": 1, "no device": 1}


def test_the_validator_says_where_it_cannot_run(
    exported: Exported, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert _validator(exported.out).main([str(exported.out)]) == 3
    assert "not run on Apple hardware" in capsys.readouterr().out


def test_the_reported_seconds_cover_every_step(exported: Exported) -> None:
    report = json.loads((exported.out / REPORT).read_text())
    assert set(report["seconds"]) == {"adapters", "convert", "gate", "write"}
    assert report["peak_rss_mb"]["convert"] > 0
