"""`edgetam export`: a model becomes packages that have proven themselves, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgetam_pl.build import build_model
from edgetam_pl.config import ExportConfig, Tolerance
from edgetam_pl.export import manifest as contract
from edgetam_pl.export.adapters import flatten, loop_of, prepared
from edgetam_pl.export.backends import backend_of
from edgetam_pl.export.clip import LEAST_FRAMES, draw
from edgetam_pl.export.estimate import estimate
from edgetam_pl.export.extras import require
from edgetam_pl.export.gate.check import compare_contrasts, compare_parts, largest_activations
from edgetam_pl.export.gate.measures import Measure, Verdict
from edgetam_pl.export.gate.rollouts import Rollouts, compare_rollouts, compare_verbs
from edgetam_pl.export.golden import write_golden
from edgetam_pl.export.manifest import RuntimeSpec
from edgetam_pl.export.parts import Backend, Part, Saved
from edgetam_pl.export.readme import write_readme
from edgetam_pl.export.report import Clock, ExportReport, manifest_of, report_of
from edgetam_pl.model.track_anything import TrackAnything

REPORT = "export_report.json"
VALIDATOR = "validate_on_mac.py"
VISIBLE_BIAS = 5.0
"""Presence bias of weights=random: a model that sees nothing would compare nothing."""

Note = Callable[[str], None]


class ExportRefused(ValueError):
    """The gate did not pass; nothing was written under the final name."""

    def __init__(self, message: str, report: ExportReport) -> None:
        super().__init__(message)
        self.report = report


def run(cfg: ExportConfig) -> ExportReport:
    """Export the model that `cfg` names, print the report, and return it.

    Raises:
        ValueError: no or unsuitable weights, an unwritable folder, an unsupported target, missing extras.
        ExportRefused: the gate did not pass.
    """
    model, checkpoint, digest = load(cfg)
    report = export_packages(model, Path(cfg.out), cfg, checkpoint=checkpoint, checkpoint_sha256=digest, note=_tell)
    print(report.table())
    print(f"packages: {report.out}")
    return report


def load(cfg: ExportConfig) -> tuple[TrackAnything, str, str]:
    """The model of `cfg` with its weights, the checkpoint's name and its sha256."""
    if not cfg.weights:
        raise ValueError("weights is empty; name a checkpoint (weights=run/last.ckpt), or use weights=random.")
    model_cfg = dataclasses.replace(cfg.model, image_size=cfg.size or cfg.model.image_size)
    torch.manual_seed(cfg.seed)
    model = build_model(model_cfg)
    if cfg.weights == "random":
        with torch.no_grad():
            last = model.mask_decoder.presence_head.layers[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(VISIBLE_BIAS)
        return model.eval(), "random", ""
    from edgetam_pl.weights import load_into

    load_into(model, cfg.weights)
    with open(cfg.weights, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return model.eval(), Path(cfg.weights).name, digest


def export_packages(
    model: TrackAnything,
    out: str | Path,
    cfg: ExportConfig,
    *,
    checkpoint: str = "",
    checkpoint_sha256: str = "",
    note: Note = lambda text: None,
) -> ExportReport:
    """Convert, load back, compare, and only then give the folder its name.

    Args:
        model: any TrackAnything; it is copied, never changed.
        out: the folder to write. What an earlier export left there is replaced, if this one passes.
        note: is told what is going on.

    Raises:
        ValueError: the target, the folder or the model is unsuitable.
        ExportRefused: a comparison failed; `out` is as it was before, and `<out>.refused.json` holds the numbers.
    """
    out = Path(out)
    backend = backend_of(cfg.backend)
    precision = backend.precision(cfg)
    for package in backend.needs:
        require(package)
    if min(cfg.gate.frames, cfg.gate.short_frames) < LEAST_FRAMES:
        raise ValueError(
            f"gate.frames and gate.short_frames must be at least {LEAST_FRAMES}; shorter rollouts show nothing."
        )
    _check_folder(out)
    clock = Clock()
    original = prepared_reference(model)
    parts = flatten(prepared(model, fused_attention=cfg.attention == "fused"), cfg)
    loop = loop_of(original, cfg)
    by_role = {part.role: part for part in parts}
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as draft_name:
        draft = Path(draft_name) / out.name
        draft.mkdir()
        verdict = Verdict()
        note("adapters against the model")
        verdict += list(compare_verbs(original, by_role, loop, cfg.gate))
        clock.lap("adapters")
        note("converting")
        saved = backend.convert(parts, draft, cfg)
        clock.lap("convert")
        rollouts = gate(original, by_role, backend, saved, loop, cfg, precision, verdict, note)
        clock.lap("gate")
        report = report_of(out, cfg, precision, saved, verdict, rollouts.rows, clock)
        if not verdict.ok:
            refused = out.with_name(out.name + ".refused.json")
            _write_json(refused, dataclasses.asdict(report))
            raise ExportRefused(_refusal(verdict.failures, refused), report)
        note("golden files, manifest")
        if cfg.golden:
            write_golden(
                draft,
                by_role,
                loop,
                rollouts.expected,
                frames=cfg.gate.frames,
                short_frames=cfg.gate.short_frames,
                seed=cfg.gate.seed,
            )
            shutil.copyfile(Path(__file__).with_name(VALIDATOR), draft / VALIDATOR)
        blocks = len(original.memory_attention.blocks)
        report.estimate = estimate(parts, saved, loop, precision=precision, blocks=blocks)
        manifest = manifest_of(cfg, precision, saved, loop, draft, checkpoint, checkpoint_sha256, report)
        contract.write(manifest, draft)
        write_readme(manifest, draft)
        clock.lap("write")
        report.seconds = clock.laps
        _write_json(draft / REPORT, dataclasses.asdict(report))
        _give_name(draft, out)
    return report


def gate(
    model: TrackAnything,
    parts: Mapping[str, Part],
    backend: Backend,
    saved: Sequence[Saved],
    loop: RuntimeSpec,
    cfg: ExportConfig,
    precision: str,
    verdict: Verdict,
    note: Note,
) -> Rollouts:
    """Judge saved programs: part by part, over rollouts, and by their largest activations."""
    tolerance = tolerance_of(cfg, precision)
    clip = draw(cfg.gate.short_frames, loop.size, seed=cfg.gate.seed)
    note("part by part")
    stored = {each.part.role: backend.load(each, rounded=False) for each in saved}
    verdict += list(compare_parts(parts, stored, loop, clip, cfg.gate, label="fp32 arithmetic", error=tolerance.stored))
    verdict += list(compare_contrasts(parts, stored, loop, clip, tolerance))
    del stored
    programs = {each.part.role: backend.load(each, rounded=True) for each in saved}
    bounds = {"error": tolerance.part, "decibel": tolerance.psnr}
    verdict += list(compare_parts(parts, programs, loop, clip, cfg.gate, label=precision, noise=False, **bounds))
    excusable = precision == "fp16" and cfg.compression == "none"
    rollouts = compare_rollouts(model, parts, programs, loop, cfg.gate, tolerance, excusable=excusable, note=note)
    verdict += rollouts.measures
    verdict += list(largest_activations(parts, programs, bound=cfg.gate.largest))
    return rollouts


def tolerance_of(cfg: ExportConfig, precision: str) -> Tolerance:
    """The bounds that this kind of export has to keep."""
    if cfg.compression in ("int8", "palette8"):
        return cfg.gate.eight_bits
    if cfg.compression != "none":
        return cfg.gate.few_bits
    return cfg.gate.exact if precision == "fp32" else cfg.gate.half


def prepared_reference(model: TrackAnything) -> TrackAnything:
    """The model as it is, in eval mode and fp32 on the CPU: what everything is compared with."""
    import copy

    return copy.deepcopy(model).float().cpu().eval()


def _check_folder(out: Path) -> None:
    """Refuse early what would fail late."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; name a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / contract.FILE).is_file():
        raise ValueError(f"out={out} holds files that no export wrote; name another folder, or empty it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"out={out} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error


def _give_name(draft: Path, out: Path) -> None:
    """The finished folder takes its place; what was there goes only after the new one has arrived."""
    if not out.exists():
        os.replace(draft, out)
        return
    old = draft.parent / "replaced"
    os.replace(out, old)
    os.replace(draft, out)
    shutil.rmtree(old)


def _refusal(failures: Sequence[Measure], refused: Path) -> str:
    shown = "\n".join(f"  {measure}" for measure in failures[:8])
    more = f"\n  and {len(failures) - 8} more" if len(failures) > 8 else ""
    return (
        f"the gate refused the export: {len(failures)} comparisons failed. Nothing was written under the final name; "
        f"all numbers are in {refused}.\n{shown}{more}"
    )


def _write_json(path: Path, data: Any) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _tell(text: str) -> None:
    print(f"export: {text}", flush=True)
