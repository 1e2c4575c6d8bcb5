"""`edgetam plan`: what a training will need, before anything is allocated.

Arithmetic is counted, not guessed: FLOPs of each verb (`show.verbs`) and the bytes that each verb keeps for the backward
pass, both found by running the model on tensors without storage. How often a verb runs follows from frames, objects and
prompts, the last drawn from the prompt plan itself. Small configurations are also measured, by one step on this machine.
What remains an assumption is printed as one: the share of a device's peak that training reaches.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from edgetam_pl.build import build_model
from edgetam_pl.commands.show import FULL_FRAMES, FULL_POINTERS, verbs, walk
from edgetam_pl.config import DataSource, PhaseConfig, PromptConfig, TrainConfig
from edgetam_pl.io.templates import templates
from edgetam_pl.losses.objective import Objective
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.prompters import draw_plan
from edgetam_pl.training.activation_checkpointing import MemoryOptions
from edgetam_pl.training.check import check, ranks, with_accumulation
from edgetam_pl.training.phases import ProgressiveFrames
from edgetam_pl.training.step import StepOptions, StepSeeds, compute_losses, freeze, frozen_parts
from edgetam_pl.training.teachers import cache_bytes, feature_match, views_of
from edgetam_pl.training.track_batch import Teacher
from edgetam_pl.training.trainer import accelerator_of
from edgetam_pl.types import VERBS, FrameOutput, VideoBatch

T = TypeVar("T")

TEXTS = templates("edgetam_pl.commands")

SMALL = 30e9
"""FLOPs of a step below which one is taken and measured: about a second of one core."""

ASSUMED_GPU = (312e12, 0.15, 80 * 2**30)
"""Where there is no GPU to ask: peak FLOP/s in bf16, the share of it that training reaches, memory. An A100's data sheet;
the share is an assumption."""

ASSUMED_SHARE_OF_MATMUL = 0.3
"""What a training step reaches of the rate of a large matrix product on the same device. An assumption."""

Counts = dict[str, float]
"""Of each verb: FLOPs, bytes, or how often it runs."""


class Kept(NamedTuple):
    """Bytes kept for the backward pass by one call of a verb, for one image or one object."""

    verbs: Counts
    frozen: float  # encode, with the encoder frozen: what its two projections need
    loss: float  # of one answer held to the truth


class Cost(NamedTuple):
    """One batch of one source on one rank."""

    share: float  # of the batches
    flops: Counts  # forward, backward and teacher, by verb
    kept: float  # bytes for the backward pass


class Measured(NamedTuple):
    """One step of the configuration itself, taken on this machine's CPU."""

    seconds: float
    kept: int  # bytes kept for the backward pass
    frames: int
    objects: int


def run(cfg: TrainConfig) -> None:
    """Print the plan.

    Raises:
        ValueError: the configuration is impossible; the message is that of `edgetam train`.
    """
    check(cfg)
    print(describe(with_accumulation(cfg)), end="")


def describe(cfg: TrainConfig) -> str:
    """The plan as text: parameters, then for each phase memory, FLOPs, time, and the knob to turn."""
    with torch.device("meta"):
        student = build_model(cfg.model)
        taught_by = [build_model(one) for one in (cfg.teacher, cfg.second_teacher) if one is not None]
    keeps, flops = kept_for_backward(cfg), _flops(student)
    teachers = [] if cfg.teacher_cache_only else [_flops(one) for one in taught_by]
    world, rate, device, memory = ranks(cfg), *_device(cfg)
    teacher_parameters = 0 if cfg.teacher_cache_only else sum(map(_parameters, taught_by))
    plans: list[tuple[PhaseConfig, dict[str, Any]]] = []
    for index, phase in enumerate(cfg.stage.phases):
        teacher = _added([flops_of(phase.frames) for flops_of in teachers])
        costs = [_cost(cfg, phase, source, flops(phase.frames), teacher, keeps) for source in _shares(cfg)]
        fixed = fixed_bytes(cfg, student, phase, teacher=teacher_parameters, world=world)
        peak, parts = fixed + max(cost.kept for cost in costs), _parts(costs)
        once = sum(parts.values())
        measured = measure(cfg, index) if once < SMALL else None
        seconds, origin = phase.accumulate * once / rate, "estimated"
        if measured is not None and accelerator_of(cfg.trainer) == "cpu":
            seconds, origin = phase.accumulate * measured.seconds, "one step measured here, now"
        plan = {
            "title": ProgressiveFrames(cfg.stage.phases, index).describe(),
            "flops": phase.accumulate * once,
            "shares": {name: value / once for name, value in parts.items()},
            "fixed": fixed,
            "peak": peak,
            "measured": measured,
            "seconds": seconds,
            "origin": origin,
            "knob": _knob(cfg, phase, peak, fixed, memory, parts),
        }
        plans.append((phase, plan))
    TEXTS.filters.update(flops=_tera, size=_size, span=_span)
    return TEXTS.get_template("plan.txt.jinja").render(
        cfg=cfg,
        parameters=_parameters(student),
        teacher_parameters=teacher_parameters,
        answers=sum(cache_bytes(cfg, one, world=world) for one in (cfg.teacher, cfg.second_teacher) if one is not None),
        world=world,
        precision=_precision(cfg),
        device=device,
        plans=plans,
        total=sum(phase.steps * plan["seconds"] for phase, plan in plans),
    )


# --- how often, how much ---


def answers(prompts: PromptConfig, frames: int, *, draws: int = 512) -> tuple[float, float]:
    """Expected prompted frames and correction clicks of a clip: the mean over drawn prompt plans."""
    generator = torch.Generator().manual_seed(0)
    plans = [draw_plan(prompts, frames, generator) for _ in range(draws)]
    initial = sum(len(plan.initial) for plan in plans) / draws
    return initial, sum(len(plan.corrected) for plan in plans) * prompts.corrections / draws


def most_answers(prompts: PromptConfig, frames: int) -> int:
    """Answers of a clip at most: every frame once, and the corrections."""
    corrected = min(prompts.max_corrected_frames, frames) if prompts.point_prob > 0 or frames == 1 else 0
    return frames + corrected * prompts.corrections


def kept_for_backward(cfg: TrainConfig) -> Kept:
    """What one call of each verb keeps, for one image and one object, from shapes alone."""
    with torch.device("meta"):
        model = build_model(cfg.model)
    low = "bf16" in _precision(cfg) or "16" in _precision(cfg).removesuffix("-true")
    # Parameters become tensors without storage that claim to be on the CPU: kernels are chosen as there.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        model.to_empty(device="cpu").train()
        own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
        side = cfg.model.image_size
        images = torch.empty(1, 3, side, side)
        (_, f_m, decoded, _), verbs = walk(model, images, lambda verb: saved_bytes(verb, own))
        for part in frozen_parts(model):
            part.requires_grad_(False)
        _, still = saved_bytes(lambda: model.encode(images), own)
        for part in frozen_parts(model):
            part.requires_grad_(True)
        objective = Objective.of(cfg.stage)
        truth = torch.empty(1, 1, side, side, dtype=torch.bool)
        output = FrameOutput((decoded,), f_m, recalled=True)
        _, loss = saved_bytes(lambda: objective(truth, (output,), num_objects=1.0), own)
    return Kept(dict(zip(VERBS, verbs, strict=True)), still, loss)


def saved_bytes(forward: Callable[[], T], own: set[int]) -> tuple[T, int]:
    """The result of `forward` and the bytes autograd keeps for it, each storage once; storages in `own` do not count."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    return result, sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


def fixed_bytes(cfg: TrainConfig, student: TrackAnything, phase: PhaseConfig, *, teacher: int, world: int) -> float:
    """Weights, gradients, AdamW's two moments, DDP's buckets, the average and the teacher, all in fp32."""
    everything = _parameters(student)
    frozen = sum(_parameters(part) for part in frozen_parts(student))
    trained = everything - frozen if phase.freeze_encoder else everything
    buckets = trained if world > 1 else 0
    average = everything if cfg.stage.ema else 0
    return 4.0 * (everything + 3 * trained + buckets + average + teacher)


def measure(cfg: TrainConfig, index: int) -> Measured:
    """Take one step of phase `index` on a made-up clip on the CPU, after one that warms up. Nothing is written."""
    torch.manual_seed(0)
    # The teacher's weights do not matter to time, so none are read.
    models = [] if cfg.teacher_cache_only else [one for one in (cfg.teacher, cfg.second_teacher) if one is not None]
    teachers = [Teacher(build_model(one), one.name, "random") for one in models]
    student, phase = build_model(cfg.model).train(), cfg.stage.phases[index]
    matches = tuple(feature_match(cfg.stage, student, one) for one in teachers)
    options = StepOptions(cfg.stage, phase, MemoryOptions.of(cfg), matches)
    freeze(student, cfg.stage, phase)
    side, objects = cfg.model.image_size, cfg.stage.max_objects * phase.batch
    masks = torch.zeros(phase.frames, objects, side, side, dtype=torch.bool)
    masks[..., side // 4 : side // 2, side // 4 : side // 2] = True
    frames = torch.randint(0, 256, (phase.batch, phase.frames, 3, side, side), dtype=torch.uint8)
    video_of = torch.arange(phase.batch).repeat_interleave(cfg.stage.max_objects)
    views = tuple(torch.randint(0, 256, (*frames.shape[:3], s, s), dtype=torch.uint8) for s in views_of(cfg))
    batch = VideoBatch(frames, masks, video_of, tuple(f"made-up {b}" for b in range(phase.batch)), views=views)
    seeds = StepSeeds.of(0, phase=index, batch=0, rank=0)

    def forward() -> Tensor:
        taught = teachers if phase.distil else []
        return compute_losses(student, taught, batch, seeds, options).losses.weighted(cfg.stage.weights).total

    own = {_storage(tensor) for tensor in (*student.parameters(), *student.buffers())}
    forward().backward()
    started = time.perf_counter()
    loss, kept = saved_bytes(forward, own)
    loss.backward()
    return Measured(time.perf_counter() - started, kept, phase.frames, objects)


def _cost(cfg: TrainConfig, phase: PhaseConfig, source: DataSource, flops: Counts, teacher: Counts, keeps: Kept) -> Cost:
    frames = phase.frames if source.kind == "video" else 1
    clips = source.batch or phase.batch
    objects = clips * (source.max_objects or cfg.stage.max_objects)
    initial, corrections = answers(cfg.stage.prompts, frames)
    calls: Counts = {
        "encode": clips * frames,
        "attend": objects * (frames - initial),
        "decode": objects * (frames + corrections),
        "memorize": objects * (frames - 1),
    }
    recomputed = MemoryOptions.of(cfg).recompute
    in_parts = cfg.object_chunk and objects > cfg.object_chunk
    passes = {verb: 3.0 + (verb in recomputed) for verb in VERBS}  # a backward pass is two forward ones
    if in_parts:
        passes |= {verb: passes[verb] + 1 for verb in VERBS[1:]}
    passes["encode"] = 1.0 if phase.freeze_encoder else passes["encode"]
    whole = cfg.stage.name == "video"  # in stage 1 the teacher only encodes
    spent = {verb: calls[verb] * flops[verb] * passes[verb] for verb in VERBS}
    if phase.distil and teacher:
        spent["teacher"] = sum(calls[verb] * teacher[verb] for verb in (VERBS if whole else ("encode",)))
    at_once = cfg.object_chunk if in_parts else objects
    most = {
        "encode": calls["encode"],
        "attend": at_once * (frames - 1),
        "decode": at_once * most_answers(cfg.stage.prompts, frames),
        "memorize": at_once * (frames - 1),
    }
    once = {verb: float(at_once) for verb in VERBS} | {"encode": calls["encode"]}
    kept = {verb: most[verb] * keeps.verbs[verb] for verb in VERBS if verb not in recomputed}
    kept["loss"] = most["decode"] * keeps.loss
    if phase.freeze_encoder:
        kept["encode"] = calls["encode"] * keeps.frozen
    # of what is recomputed, one call of one verb at a time is there, while it is taken back
    back = max(
        (once[verb] * keeps.verbs[verb] for verb in recomputed if verb != "encode" or not phase.freeze_encoder), default=0
    )
    return Cost(source.weight, spent, sum(kept.values()) + back)


def _shares(cfg: TrainConfig) -> list[DataSource]:
    """The sources, their weights adding up to one; those without weight are never drawn."""
    whole = sum(source.weight for source in cfg.data.sources)
    return [dataclasses.replace(s, weight=s.weight / whole) for s in cfg.data.sources if s.weight > 0]


def _flops(model: TrackAnything) -> Callable[[int], Counts]:
    """FLOPs of each verb in a clip of so many frames, the mean over its frames: attention reads as many memories as there
    are by then."""

    def attend(memories: int, pointers: int) -> float:
        return float(verbs(model, memories=memories, pointers=pointers)[VERBS.index("attend")].flops)

    # linear in memories and in pointers: three counts tell those of every frame
    full = {verb.name: float(verb.flops) for verb in verbs(model)}
    first, filled = attend(1, 1), attend(FULL_FRAMES, 1)
    memory, pointer = (filled - first) / (FULL_FRAMES - 1), (full["attend"] - filled) / (FULL_POINTERS - 1)

    def in_clip(frames: int) -> Counts:
        later = range(1, max(frames, 2))
        counts = [first + memory * (min(t, FULL_FRAMES) - 1) + pointer * (min(t, FULL_POINTERS) - 1) for t in later]
        return full | {"attend": sum(counts) / len(counts)}

    return in_clip


def _added(counts: list[Counts]) -> Counts:
    """Of several teachers together: an upper bound where each teaches some of the batches."""
    return {verb: sum(one[verb] for one in counts) for verb in VERBS} if counts else {}


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


# --- the device ---


def _precision(cfg: TrainConfig) -> str:
    return str(cfg.trainer.get("precision", "32-true"))


def _device(cfg: TrainConfig) -> tuple[float, str, float]:
    """FLOP/s of a training step, where that number comes from, and the memory of one rank in bytes."""
    if accelerator_of(cfg.trainer) == "gpu" and not torch.cuda.is_available():
        peak, share, memory = ASSUMED_GPU
        words = f"no GPU here to ask; assumed: {peak / 1e12:.0f} TFLOP/s, {share:.0%} of it reached, {_size(memory)}"
        return peak * share, words, memory
    if accelerator_of(cfg.trainer) == "gpu":
        rate = _matmul_rate("cuda", torch.bfloat16 if "16" in _precision(cfg) else torch.float32, 4096)
        memory, name = float(torch.cuda.get_device_properties(0).total_memory), torch.cuda.get_device_name(0)
    else:
        rate, name = _matmul_rate("cpu", torch.float32, 512), f"CPU, {torch.get_num_threads()} threads"
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    words = (
        f"{name}: {rate / 1e9:,.0f} GFLOP/s in a matrix product (measured now), {ASSUMED_SHARE_OF_MATMUL:.0%} of it assumed "
        f"for training; {_size(memory)}"
    )
    return rate * ASSUMED_SHARE_OF_MATMUL, words, memory


def _matmul_rate(device: str, dtype: torch.dtype, side: int) -> float:
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    best = math.inf
    for _ in range(8):
        started = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


# --- words ---


def _knob(cfg: TrainConfig, phase: PhaseConfig, peak: float, fixed: float, memory: float, parts: Counts) -> str:
    """The one key that helps most."""
    if peak > memory:
        if not cfg.activation_checkpointing:
            return f"memory: {_size(peak)} do not fit into {_size(memory)}; set activation_checkpointing=true"
        if not cfg.object_chunk and cfg.stage.max_objects > 1:
            return f"memory: set object_chunk={max(cfg.stage.max_objects // 4, 1)}, so that objects are taken in parts"
        if phase.batch > 1:
            return f"memory: halve batch to {phase.batch // 2} and double accumulate"
        if cfg.stage.max_objects > 1 and fixed < memory:
            return f"memory: lower stage.max_objects from {cfg.stage.max_objects}, or use shorter clips (frames)"
        return "memory: use a smaller model.image_size, or a device with more memory"
    if cfg.activation_checkpointing and peak * 4 < memory:
        return "time: memory is plentiful; activation_checkpointing=false saves the second forward pass"
    advice = {
        "encode": "the encoder; freeze_encoder=true where the recipe allows it, or a smaller model.image_size",
        "attend": "memory attention; it grows with frames x objects (stage.max_objects), and with the compressor's tokens",
        "decode": "decoding; it grows with stage.prompts.corrections and stage.max_objects",
        "memorize": "memory encoding; it grows with frames x objects (stage.max_objects)",
        "teacher": "the teacher; a smaller model@teacher, or distil=false in this phase",
    }
    spare = memory / max(peak, 1.0)
    more = f"; memory would allow a batch of {int(phase.batch * min(spare, 64) / 1.25)}" if spare > 2.5 else ""
    return f"time: most of it is {advice[max(parts, key=parts.__getitem__)]}{more}"


def _parts(costs: list[Cost]) -> Counts:
    """FLOPs of each verb in a batch, the mean over the sources."""
    names = dict.fromkeys(name for cost in costs for name in cost.flops)
    return {name: sum(cost.share * cost.flops.get(name, 0.0) for cost in costs) for name in names}


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.2f} TFLOPs" if flops > 1e11 else f"{flops / 1e9:.2f} GFLOPs"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
