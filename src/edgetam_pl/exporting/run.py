"""`edgetam export`: a model becomes packages that have proven themselves, or nothing."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgetam_pl.build import RANDOM, load_model, stride_of
from edgetam_pl.config import ExportConfig
from edgetam_pl.config.choices import check_choice
from edgetam_pl.exporting import manifest as contract
from edgetam_pl.exporting import web
from edgetam_pl.exporting.adapters import flatten, prepared
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.backends import BACKENDS, backend_of
from edgetam_pl.exporting.clip import LEAST_FRAMES
from edgetam_pl.exporting.documents import readme
from edgetam_pl.exporting.estimate import estimate
from edgetam_pl.exporting.extras import require
from edgetam_pl.exporting.gate.allocator import memory_kept
from edgetam_pl.exporting.gate.judge import judge, tolerance_of
from edgetam_pl.exporting.gate.measures import Measure, Verdict
from edgetam_pl.exporting.gate.rollouts import Note
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.gate.witnesses import call_witnesses
from edgetam_pl.exporting.golden import write_golden
from edgetam_pl.exporting.manifest import FeatureEntry, Manifest, PartEntry, RuntimeSpec
from edgetam_pl.exporting.parts import Feature, Saved
from edgetam_pl.exporting.report import Clock, ExportReport, PackageRow
from edgetam_pl.io.atomic import atomic_path, write_json, write_text
from edgetam_pl.io.environment import versions
from edgetam_pl.io.hashing import bytes_of, sha256_of
from edgetam_pl.model.track_anything import TrackAnything

REPORT, README = "export_report.json", "README.md"
VALIDATOR = "validate_on_mac.py"
VISIBLE_BIAS = 5.0
"""Presence bias of weights=random: a model that sees nothing would compare nothing."""


class ExportRefused(ValueError):
    """The gate did not pass; nothing was written under the final name."""

    def __init__(self, message: str, report: ExportReport) -> None:
        super().__init__(message)
        self.report = report


def run(cfg: ExportConfig) -> ExportReport | None:
    """`edgetam export`: see `export`; with `dry_run` nothing is written, and there is no report.

    Raises:
        ValueError, ExportRefused: as `export`.
    """
    if not cfg.dry_run:
        return export(cfg)
    model, checkpoint, _ = load(cfg)
    _, precision = suitable(cfg, Path(cfg.out))
    parts = [part.name for part in flatten(prepared(model, fused_attention=cfg.attention == "fused"), cfg)]
    print(f"{cfg.out}: {cfg.backend} {precision} of {cfg.model.name} ({checkpoint}): {', '.join(parts)}")
    return None


def export(cfg: ExportConfig) -> ExportReport:
    """Export the model that `cfg` names, print the report, and return it.

    Raises:
        ValueError: no or unsuitable weights, an unwritable folder, an unsupported target, missing extras.
        ExportRefused: the gate did not pass.
    """
    model, checkpoint, digest = load(cfg)
    note = partial(print, "export:", flush=True)
    report = export_packages(model, Path(cfg.out), cfg, checkpoint=checkpoint, checkpoint_sha256=digest, note=note)
    print(report.table(backend_of(cfg.backend).device))
    print(f"packages: {report.out}")
    return report


def load(cfg: ExportConfig) -> tuple[TrackAnything, str, str]:
    """The model of `cfg` with its weights, the checkpoint's name and its sha256."""
    model = load_model(cfg.model, cfg.weights, seed=cfg.seed, image_size=cfg.size)
    if cfg.weights == RANDOM:
        with torch.no_grad():
            last = model.mask_decoder.presence_head.layers[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(VISIBLE_BIAS)
        return model, RANDOM, ""
    return model, Path(cfg.weights).name, sha256_of(cfg.weights)


def suitable(cfg: ExportConfig, out: Path) -> tuple[Backend, str]:
    """The backend and its precision, once everything that can be checked beforehand is.

    Raises:
        ValueError: the target or the folder is unsuitable, or a tool is missing.
    """
    backend = backend_of(cfg.backend)
    precision = backend.precision(cfg)
    for name in cfg.witnesses:
        check_choice("witnesses", name, sorted(set(BACKENDS) - {cfg.backend}))
    for package in backend.needs:
        require(package, backend.extra)
    if cfg.target == web.WEB:
        web.check(cfg)
    if stride_of(cfg.model) != 16:
        raise ValueError(
            f"{cfg.model.name} has patches of {stride_of(cfg.model)} pixels, and the exported loop is made for a stride of "
            "16. It is a teacher; export the student that learned from it."
        )
    if min(cfg.gate.frames, cfg.gate.short_frames) < LEAST_FRAMES:
        raise ValueError(
            f"gate.frames and gate.short_frames must be at least {LEAST_FRAMES}; shorter rollouts show nothing."
        )
    _check_folder(out)
    return backend, precision


def export_packages(
    model: TrackAnything,
    out: str | Path,
    cfg: ExportConfig,
    *,
    checkpoint: str = "",
    checkpoint_sha256: str = "",
    note: Note = lambda text: None,
    truth: Truth | None = None,
) -> ExportReport:
    """Convert, load back, compare, and only then give the folder its name.

    Args:
        model: any TrackAnything; it is copied, never changed.
        out: the folder to write. What an earlier export left there is replaced, if this one passes.
        note: called with one line of progress at a time.
        truth: torch's side of the gate for this very model, from an export in another format: what it holds is not computed
            again (`Truth.of(model, cfg)`).

    Raises:
        ValueError: the target, the folder or the model is unsuitable.
        ExportRefused: a comparison failed; `out` is as it was before, and `<out>.refused.json` holds the numbers.
    """
    out = Path(out)
    backend, precision = suitable(cfg, out)
    clock, verdict = Clock(), Verdict()
    truth = Truth.of(model, cfg) if truth is None else truth
    truth.check(cfg)
    loop, flat = truth.loop, tuple(truth.parts.values())
    with atomic_path(out) as draft:
        draft.mkdir()
        # convert
        note("adapters against the model")
        with memory_kept():
            verdict += truth.verbs
        clock.lap("adapters")
        note("converting")
        saved = backend.convert(flat, draft, cfg)
        clock.lap("convert")
        # judge what was saved
        with memory_kept():
            rollouts = judge(truth, backend, saved, cfg, verdict, note)
        clock.lap("gate")
        worst = verdict.worst()
        report = ExportReport(
            out=str(out),
            backend=cfg.backend,
            precision=precision,
            passed=verdict.ok,
            packages=[PackageRow(each.part.name, each.path.name, bytes_of(each.path)) for each in saved],
            seconds=clock.laps,
            processor_seconds=clock.processor,
            peak_rss_mb=clock.peaks,
            failures=[str(measure) for measure in verdict.failures],
            worst={k: {"value": m.value, "bound": m.bound, "ok": m.ok, "where": m.where} for k, m in sorted(worst.items())},
            frames=rollouts.rows,
            executed=backend.executed(cfg),
        )
        if not verdict.ok:
            refused = out.with_name(out.name + ".refused.json")
            write_json(refused, dataclasses.asdict(report), indent=1)
            raise ExportRefused(_refusal(verdict.failures, refused, precision, cfg.compression), report)
        if cfg.witnesses:
            with memory_kept():
                called = [backend_of(name) for name in cfg.witnesses]
                report.witnesses = call_witnesses(truth, backend, saved, cfg, called, note)
            clock.lap("witnesses")
        # write what belongs to the packages; the folder gets its name when this block ends
        note("golden files, manifest")
        if cfg.golden and cfg.target != web.WEB:  # nobody validates on a Mac what runs in a browser
            clip, half = truth.reference.clip, precision == "fp16"
            write_golden(draft, truth.cases, clip, rollouts.expected, short_frames=cfg.gate.short_frames, half=half)
            shutil.copyfile(Path(__file__).with_name(VALIDATOR), draft / VALIDATOR)
        blocks = len(truth.model.memory_attention.blocks)
        report.estimate = estimate(saved, loop, backend, precision=precision, blocks=blocks)
        manifest = _manifest(cfg, backend, saved, loop, draft, checkpoint, checkpoint_sha256, report)
        contract.write(manifest, draft)
        usage = backend.usage(manifest)
        if cfg.target == web.WEB:
            web.write_page(draft, web.check(cfg), cfg)
            usage = web.USAGE
        write_text(draft / README, readme(manifest, usage, phone=cfg.target != web.WEB))
        clock.lap("write")
        write_json(draft / REPORT, dataclasses.asdict(report), indent=1)
    return report


def _manifest(
    cfg: ExportConfig,
    backend: Backend,
    saved: Sequence[Saved],
    loop: RuntimeSpec,
    folder: Path,
    checkpoint: str,
    checkpoint_sha256: str,
    report: ExportReport,
) -> Manifest:
    def entry(feature: Feature) -> FeatureEntry:
        return FeatureEntry(feature.name, feature.shape, backend.wire(feature, report.precision), feature.meaning)

    entries = tuple(
        PartEntry(
            name=each.part.name,
            role=each.part.role,
            file=str(each.path.relative_to(folder)),
            function=each.function,
            compute_units=each.part.compute_units,
            bytes=bytes_of(each.path),
            sha256=sha256_of(each.path, ignore=backend.volatile),
            inputs=tuple(entry(feature) for feature in each.part.inputs),
            outputs=tuple(entry(feature) for feature in each.part.outputs),
            states=tuple(entry(feature) for feature in each.part.states),
        )
        for each in saved
    )
    return Manifest(
        format=contract.FORMAT,
        name=cfg.name,
        backend=cfg.backend,
        precision=report.precision,
        system=backend.system(cfg),
        attention=cfg.attention,
        compression=cfg.compression,
        options=dict(cfg.options),
        loop=loop,
        parts=entries,
        rules=contract.RULES,
        model=dataclasses.asdict(cfg.model),
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        versions=versions(("torch", "numpy", "timm", *backend.needs)),
        thresholds={**dataclasses.asdict(cfg.gate), "applied": dataclasses.asdict(tolerance_of(cfg, report.precision))},
        parity=report.worst,
        estimate=report.estimate,
        apple_hardware=report.apple_hardware,
    )


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


def _refusal(failures: Sequence[Measure], refused: Path, precision: str, compression: str) -> str:
    """What failed, and which key rounds less."""
    shown = "\n".join(f"  {measure}" for measure in failures[:8])
    more = f"\n  and {len(failures) - 8} more" if len(failures) > 8 else ""
    keys = {"compression=none": compression != "none", "precision=fp32": precision == "fp16"}
    less = " or ".join(key for key, helps in keys.items() if helps)
    cure = f"\nPackages that round less, and are larger: {less}." if less else ""
    return (
        f"the gate refused the export: {len(failures)} comparisons failed. Nothing was written under the final name; "
        f"all numbers are in {refused}.\n{shown}{more}{cure}"
    )
