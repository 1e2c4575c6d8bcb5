"""Our stage-2 step against a plain step with the same maths, in one run: time, peak memory, ratios.

    python benchmarks/train_step.py                                  # CPU, small
    python benchmarks/train_step.py --device cuda --size 1024 --frames 8 --objects 3 --bf16

Both take one full step of Eq. 8 on the same clip: student through the bank with prompts, teacher on the same prompts,
losses, backward, clipping, AdamW. The plain one is written here as SAM 2's trainer does it: eager; F4, F8 and F16 copied for
every object (so the first self-attention of memory attention runs once per object); RepViT as timm makes it (depthwise 1x1
convolutions channel by channel); all candidates of all answers up-sampled and compared at full resolution, kept for
backward; a memory written after the last frame, which nobody reads; unfused AdamW; and on the CPU, memory attention with its
scores written out, the only kernel that the release allows there (--plain-attention any lifts that).

"ours, thrifty" recomputes some verbs in the backward pass (`training/activation_checkpointing.py`, --thrifty names them).

Before anything is timed, all take the step without dropout and must agree in loss and in gradient norm. Each contestant runs
in processes of its own, in turn with the others, round after round. On the CPU, time is the CPU time of the process (other
work on the machine does not count), and memory the peak resident size of a step above that of the process between steps
(weights, optimiser state, kernels that oneDNN made for the shapes it met), taken in a second process whose malloc returns
freed pages. On a GPU: wall-clock between synchronisations and the allocator's peak. Ratios are of medians within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ModelConfig, PhaseConfig, StageConfig
from edgetam_pl.inference.lean_layers import use_lean_layers
from edgetam_pl.inference.memory_block import use_lean_blocks
from edgetam_pl.inference.onednn import use_onednn
from edgetam_pl.io.environment import keep_freed_pages
from edgetam_pl.losses.masks import dice, focal, iou, upsampled
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import ChannelScale
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import PromptPlan, Replay, SimulatedClicks
from edgetam_pl.tracking.step import Prompter, PromptFn, observe, remember
from edgetam_pl.training.activation_checkpointing import THRIFTY, MemoryOptions
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.optim import parameter_groups
from edgetam_pl.training.step import measure, teacher_features, teacher_outputs, track_student
from edgetam_pl.training.track_batch import Teacher, TrackedClip
from edgetam_pl.types import VERBS, Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall, VideoBatch

CONTESTANTS = ("plain", "ours", "ours, thrifty")
PROMPTS = ("masks", "points")

RETURN_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc would keep freed tensors resident, and a peak would say little about the step."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(_child(args)))
        return
    if args.check:
        _check_equal(args)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for round_ in range(args.rounds):
        for prompts in args.prompts:
            for name in args.contestants:
                runs = found.setdefault((prompts, name), [])
                runs.append(_spawn(name, prompts, {}))
                if args.device == "cpu" and args.weigh:  # a peak does not vary as time does: weighed once
                    runs[-1]["bytes"] = runs[0]["bytes"] if round_ else _spawn(name, prompts, RETURN_PAGES)["bytes"]
        print(f"round {round_ + 1} of {args.rounds} done", file=sys.stderr)
    _report(args, found)


# --- the contestants ---


def our_step(module: Distillation, batch: VideoBatch, prompter: Prompter, verbs: Sequence[str] = ()) -> Tensor:
    """The loss of one step as training takes it, with these verbs recomputed in the backward pass."""
    options = replace(module.options, memory=replace(module.options.memory, recompute=tuple(verbs)))
    student = track_student(module.student, batch, prompter, options)
    teachers = {}
    if module.teacher is not None:
        features = teacher_features(module.teacher, batch, options)
        teachers[0] = TrackedClip(features, teacher_outputs(module.teacher, features, batch, student.outputs, options))
    return measure(batch, student, teachers, options, batch.num_objects).weighted(module.stage.weights).total


def plain_step(module: Distillation, batch: VideoBatch, prompter: Prompter, attention: str) -> Tensor:
    """The same loss, the plain way."""
    f16, ours = _plain_track(PlainTracker(module.student, attention), batch, prompter)
    weights, objects = module.stage.weights, batch.num_objects
    with torch.autocast(f16.device.type, enabled=False):
        task = sum(
            (_plain_loss(module, truth, output) for truth, output in zip(batch.masks, ours, strict=True)), f16.new_zeros(())
        )
    if module.teacher is None:
        return task / objects
    with torch.no_grad():
        teacher_f16, theirs = _plain_track(PlainTracker(module.teacher.model, attention), batch, Replay(ours))
    with torch.autocast(f16.device.type, enabled=False):
        img = F.mse_loss(f16.float(), teacher_f16.float())
        mem = [F.mse_loss(a.f_m.float(), b.f_m.float()) for a, b in zip(ours, theirs, strict=True) if a.recalled]
        return task / objects + weights.img * img + weights.mem * (torch.stack(mem).mean() if mem else 0.0)


@dataclass(frozen=True)
class PlainTracker:
    """The model's verbs, with memory attention under the release's choice of kernels."""

    model: TrackAnything
    attention: str

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        if self.attention == "any":
            return self.model.attend(f16, recall)
        with sdpa_kernel(SDPBackend.MATH):
            return self.model.attend(f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        return self.model.decode(f_m, features, prompts)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return self.model.memorize(f16, decoded)


def _plain_track(tracker: PlainTracker, batch: VideoBatch, prompter: Prompter) -> tuple[Tensor, tuple[FrameOutput, ...]]:
    features = tracker.model.encode(tracker.model.normalise(batch.frames.flatten(0, 1)))
    bank = MemoryBank(policy=RecallPolicy(clip_length=batch.num_frames))
    outputs: dict[int, FrameOutput] = {}
    for t in prompter.order(batch.num_frames):
        frame: ImageFeatures = features.of(batch.video_of * batch.num_frames + t)  # copied for every object
        outputs[t] = observe(tracker, bank, frame, t, prompter.at(t))
        bank = remember(tracker, bank, frame, t, outputs[t])
    return features.f16, tuple(outputs[t] for t in range(batch.num_frames))


def _plain_loss(module: Distillation, truth: Tensor, output: FrameOutput) -> Tensor:
    weights, present = module.stage.weights, truth.flatten(1).any(dim=1)
    total = truth.new_zeros((), dtype=torch.float32)
    for answer in output.rounds:
        if answer.prompts is not None and answer.prompts.mask is not None:
            full = torch.where(answer.prompts.mask, 10.0, -10.0)
        else:
            full = upsampled(answer.logits, truth.shape[-1])  # (O, M, S, S)
        focal_, dice_ = focal(full, truth), dice(full, truth)
        best = (weights.focal * focal_ + weights.dice * dice_).argmin(dim=1, keepdim=True)
        chosen = weights.focal * focal_.gather(1, best) + weights.dice * dice_.gather(1, best)
        wrong = weights.iou * (answer.iou.float() - iou(full, truth)).abs().mean(dim=1)
        total = total + ((chosen[:, 0] + wrong) * present).sum()
        logits = answer.presence[:, 0].float()
        total = total + weights.presence * F.binary_cross_entropy_with_logits(logits, present.float(), reduction="sum")
    return total


def _as_timm_makes_it(model: nn.Module) -> None:
    """Back from `ChannelScale` to the depthwise 1x1 convolution it replaces."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ChannelScale):
                conv = nn.Conv2d(child.in_channels, child.out_channels, 1, groups=child.groups, bias=False)
                conv.weight = child.weight
                setattr(parent, name, conv)


# --- one contestant in a process of its own ---


def _build(args: argparse.Namespace, name: str, dropout: float) -> Distillation:
    torch.manual_seed(0)
    student = build_model(ModelConfig(image_size=args.size, dropout=dropout))
    teacher = (
        None
        if args.teacher == "none"
        else build_model(
            ModelConfig(
                image_size=args.size,
                trunk=args.teacher,
                memory_blocks=4,
                compressor=CompressorConfig(kind="none"),
                pointer_age=True,
                occlusion_embedding=True,
            )
        )
    )
    models = [model for model in (student, teacher) if model is not None]
    for model in models:  # random weights judge everything absent, and absent masks have no gradient
        nn.init.constant_(model.mask_decoder.presence_head.layers[-1].bias, 5.0)
    if name == "plain":
        _as_timm_makes_it(student)
    stage = StageConfig(phases=[PhaseConfig(frames=args.frames, steps=20_000)])
    stage.optim.warmup = 100
    laid_out = args.channels_last and name != "plain"
    module = Distillation(
        student,
        stage=stage,
        teacher=None if teacher is None else Teacher(teacher, args.teacher, ""),
        memory_options=MemoryOptions(channels_last=laid_out),
    )
    if laid_out:
        for model in models:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if name != "plain" and args.device == "cpu":
        keep_freed_pages()  # not where memory is weighed
        use_lean_layers(student)
        use_onednn(student, trained=True)
        if teacher is not None:
            use_lean_blocks(teacher)
            use_onednn(teacher)
    if teacher is not None:
        teacher.to(args.device)
    return module.to(args.device)


def _clip(args: argparse.Namespace) -> VideoBatch:
    """Noise, and rectangles that move."""
    noise = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (1, args.frames, 3, args.size, args.size), generator=noise, dtype=torch.uint8)
    masks = torch.zeros(args.frames, args.objects, args.size, args.size, dtype=torch.bool)
    side = args.size // 4
    for t in range(args.frames):
        for o in range(args.objects):
            top, left = (o * side // 2 + t * 4) % (3 * side), (o * side + t * 8) % (3 * side)
            masks[t, o, top : top + side, left : left + side] = True
    batch = VideoBatch(frames, masks, torch.zeros(args.objects, dtype=torch.int64), ("noise",))
    return batch.to(args.device)


def _prompter(args: argparse.Namespace, prompts: str, batch: VideoBatch) -> SimulatedClicks:
    if prompts == "masks":
        plan = PromptPlan((0,), by_points=False)
    else:
        never = ((False,) * 7,)
        plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0, args.frames // 2), from_truth=never * 2)
    return SimulatedClicks(batch.masks, plan, torch.Generator().manual_seed(2))


def _step_of(args: argparse.Namespace, name: str) -> Callable[[Distillation, VideoBatch, Prompter], Tensor]:
    if name == "plain":
        attention = args.plain_attention if args.device == "cpu" else "any"
        return lambda module, batch, prompter: plain_step(module, batch, prompter, attention)
    verbs = args.thrifty if name == "ours, thrifty" else ()
    return lambda module, batch, prompter: our_step(module, batch, prompter, verbs)


def _child(args: argparse.Namespace) -> dict[str, float]:
    name, cuda = args.child, args.device == "cuda"
    module, batch = _build(args, name, dropout=args.dropout), _clip(args)
    module.train()
    cfg = module.stage.optim
    groups = parameter_groups(
        module.student, lr=cfg.lr, encoder_lr=cfg.encoder_lr, weight_decay=cfg.weight_decay, layer_decay=1.0
    )
    optimizer = torch.optim.AdamW(groups, fused=name != "plain")

    def step() -> None:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            loss = _step_of(args, name)(module, batch, _prompter(args, args.prompts[0], batch))
        loss.backward()
        nn.utils.clip_grad_norm_(module.student.parameters(), cfg.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # pages, optimiser state, kernels
    at_rest = _memory_at_rest(cuda)
    times = []
    for _ in range(args.steps):
        start = _now(cuda)
        step()
        times.append(_now(cuda) - start)
    return {"seconds": statistics.median(times), "bytes": _peak_memory(cuda) - at_rest}


def _now(cuda: bool) -> float:
    if not cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _memory_at_rest(cuda: bool) -> int:
    """Bytes in use with weights, optimiser state, kernels and clip; from here on the peak is counted."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/statm")
    if not status.exists():  # no Linux: the peak of the process is all there is
        return 0
    clear.write_text("5")  # reset the peak resident size (proc(5))
    return int(status.read_text().split()[1]) * resource.getpagesize()


def _peak_memory(cuda: bool) -> int:
    if cuda:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _spawn(name: str, prompts: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--prompts", prompts]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{name} ({prompts}) failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# --- equal first, then fast ---


class SameClicks:
    """The simulated user, who clicks where the first contestant was clicked. Rounding may move a click: with random weights
    half of the pixels are wrong by a hair, and one that is not changes which pixel the n-th wrong one is."""

    def __init__(self, user: SimulatedClicks, told: dict[tuple[int, int], Prompts]) -> None:
        """`told`: the clicks by frame and answer, empty for the first contestant, whose clicks it receives."""
        self.user, self.told, self.first = user, told, not told
        self.moved: list[tuple[int, int]] = []
        """Frame and answer of each click that would have been another one."""

    def order(self, num_frames: int) -> Sequence[int]:
        return self.user.order(num_frames)

    def at(self, t: int) -> PromptFn:
        ask, answers = self.user.at(t), count()

        def again(answer: Decoded | None) -> Prompts | None:
            given, key = ask(answer), (t, next(answers))
            if given is None or given.points is None:
                return given
            known = self.told.setdefault(key, given)
            if self.first or known.points is None:
                return given
            if not torch.equal(known.points[:, -1], given.points[:, -1]):
                self.moved.append(key)
            return given._replace(points=known.points, labels=known.labels)

        return again


def _check_equal(args: argparse.Namespace) -> None:
    """Without dropout both steps are the same function of the same clicks; refuse to time them if they are not. Layouts are
    left alone here: they change rounding."""
    args = argparse.Namespace(**vars(args) | {"channels_last": False})
    batch = _clip(args)
    for prompts in args.prompts:
        results, told = [], {}
        for name in args.contestants:
            module, user = _build(args, name, dropout=0.0).train(), SameClicks(_prompter(args, prompts, batch), told)
            loss = _step_of(args, name)(module, batch, user)
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in module.student.parameters() if p.grad is not None]).norm()
            results.append((loss.item(), norm.item()))
            if user.moved:
                print(f"{name}: {len(user.moved)} of {len(told)} clicks would be others, (frame, answer) {user.moved[:3]}")
        pairs = zip(args.contestants, results)
        print(f"equal? {prompts}: " + ", ".join(f"{name} {a:.6f} |g| {b:.6f}" for name, (a, b) in pairs))
        for loss_, norm_ in results[1:]:
            torch.testing.assert_close(torch.tensor([loss_, norm_]), torch.tensor(results[0]), rtol=args.rtol, atol=0.0)


def _report(args: argparse.Namespace, found: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    rows = []
    for (prompts, name), runs in found.items():
        base = found[prompts, args.contestants[0]]
        seconds, mebibytes = _spread(runs, "seconds", 1), _spread(runs, "bytes", 2**20)[0]
        rows.append(
            {
                "prompts": prompts,
                "contestant": name,
                "seconds": seconds,
                "step_mib": round(mebibytes),
                "faster": round(_spread(base, "seconds", 1)[0] / seconds[0], 3),
                "memory": round(mebibytes / _spread(base, "bytes", 2**20)[0], 3),
            }
        )
    print(f"\n{'prompts':8} {'contestant':14} {'s/step':>18} {'MiB of the step':>16} {'faster':>8} {'memory':>7}")
    for row in rows:
        median, least, most = row["seconds"]
        seconds = f"{median:.2f} [{least:.2f}-{most:.2f}]"
        print(
            f"{row['prompts']:8} {row['contestant']:14} {seconds:>18} {row['step_mib']:>16} "
            f"{'x' + format(row['faster'], '.2f'):>8} {row['memory']:>7.2f}"
        )
    settings = {key: value for key, value in vars(args).items() if key != "child"}
    print(json.dumps({"settings": settings, "torch": torch.__version__, "rows": rows}))


def _spread(runs: Sequence[dict[str, float]], key: str, unit: float) -> tuple[float, float, float]:
    """Median, least and most."""
    values = [run[key] / unit for run in runs]
    return statistics.median(values), min(values), max(values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the input in pixels; a multiple of 256")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--teacher", default="sam2_hiera_tiny", help="trunk of the teacher, a SAM 2.1; none: SAM 2's step")
    parser.add_argument("--dropout", type=float, default=0.1, help="in the student's memory attention")
    parser.add_argument("--prompts", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="timed steps per round and contestant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="for ours")
    parser.add_argument("--plain-attention", choices=("math", "any"), default="math", help="of plain, on the CPU")
    parser.add_argument("--thrifty", nargs="+", choices=VERBS, default=list(THRIFTY), help="verbs to recompute")
    parser.add_argument("--rtol", type=float, default=1e-3, help="of the comparison before timing")
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="ratios to the first"
    )
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="equal first, then fast")
    parser.add_argument("--weigh", action=argparse.BooleanOptionalAction, default=True, help="memory, in other processes")
    parser.add_argument("--child", choices=CONTESTANTS, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
