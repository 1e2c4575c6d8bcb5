"""Do the packages agree with torch on this machine? Run this in the folder that `edgetam export` has written.

    python validate_on_mac.py                      # Core ML: on a Mac, recommended compute units
    python validate_on_mac.py --units cpuOnly      # Core ML: or all, cpuAndGPU, cpuAndNeuralEngine

It runs every package on its golden inputs, tracks the golden rollouts with a ring buffer of its own (the loop of the
README, in numpy), times each package, and asks Core ML where each operation would run. The report is `mac_report.json` on
a Mac, `linux_report.json` on Linux. What it needs beside numpy is the runtime of the format: `RUNTIMES`. It needs nothing
of the training project; what it compares with was computed by torch at export.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np

UNITS = ("recommended", "all", "cpuAndGPU", "cpuOnly", "cpuAndNeuralEngine")
UNUSED, PADDING, EMPTY = -2, -1, -1
WRITTEN = 0
"""Slot of the runtime's state that programs are told to write, where they have one; each call brings a state of its own."""
SCORES = ("iou_scores", "iou_score", "obj_score")
"""Outputs that are single numbers of order one: their errors are absolute below one."""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here, help="folder of manifest.json (default: the script's)")
    parser.add_argument(
        "--units", choices=UNITS, default="recommended", help="Core ML: compute units (default: the manifest's)"
    )
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each package (default 20)")
    parser.add_argument("--frames", type=int, default=0, help="stop each rollout after this many frames (default: all)")
    args = parser.parse_args(argv)
    manifest, system = json.loads((args.folder / "manifest.json").read_text()), platform.system()
    kind, needed = RUNTIMES[manifest["backend"]]
    if "coreml" in (manifest["backend"], manifest["options"].get("delegate")) and system != "Darwin":
        print("not run on Apple hardware: Core ML exists on macOS only. Copy this folder to a Mac and run the script there.")
        return 3
    try:
        programs = kind(args.folder, manifest["parts"], args.units)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install {needed}")
        return 2
    report = validate(args.folder, programs, frames=args.frames)
    report["machine"] = f"{platform.platform()} {platform.processor()}"
    report["units"] = dict(programs.units)
    report["timing_ms"] = {role: programs.time(role, report["golden_inputs"][role], args.runs) for role in programs.models}
    report["compute_plan"] = {role: programs.plan(role) for role in programs.models}
    del report["golden_inputs"]
    path = args.folder / f"{'mac' if system == 'Darwin' else system.lower()}_report.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    print(f"report: {path}")
    return 0 if report["passed"] else 1


def validate(folder, predict, frames=0):
    """The gate: `predict(role, inputs) -> outputs`, numpy in and out. Returns the report; `passed` is its verdict."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    bounds = manifest["thresholds"]["applied"]
    rows, inputs = check_cases(folder, predict, bounds)
    rows += check_rollouts(folder, manifest["loop"], predict, frames, manifest["thresholds"]["pixels"])
    failures = [row for row in rows if not row["ok"]]
    return {"passed": not failures, "failures": failures, "rows": rows, "bounds": bounds, "golden_inputs": inputs}


def check_cases(folder, predict, bounds):
    """Every package on its golden inputs."""
    index = json.loads((folder / "golden" / "cases.json").read_text())
    arrays = np.load(folder / "golden" / "cases.npz")
    rows, inputs = [], {}
    for role, cases in index.items():
        for case in cases:
            given = {name: arrays[key] for name, key in case["inputs"].items()}
            inputs.setdefault(role, given)
            values = predict(role, given)
            for name, key in case["outputs"].items():
                truth = arrays[key].astype(np.float64)
                value = np.asarray(values[name], dtype=np.float64).reshape(truth.shape)
                peak = max(np.abs(truth).max(), 1.0 if name in SCORES else 1e-12)
                error = float(np.abs(value - truth).max() / peak) if np.isfinite(value).all() else float("inf")
                row = {"part": role, "where": f"{case['name']}, {name}", "error": error, "bound": bounds["part"]}
                rows.append({**row, "ok": error <= bounds["part"]})
    return rows, inputs


def check_rollouts(folder, loop, predict, frames, pixels):
    """The golden rollouts, by our own bank and our own answers; IoU with torch's mask on every answer, and its bound."""
    index = json.loads((folder / "golden" / "rollouts.json").read_text())
    arrays = np.load(folder / "golden" / "rollouts.npz")
    clip = arrays["frames"]
    rows = []
    for rollout in index["rollouts"]:
        client, truths, truth_index = Client(loop, predict), arrays[f"{rollout['name']}/logits"], 0
        entries = {int(t): given for t, given in rollout["entries"].items()}
        first = [t for t, given in entries.items() if given[0] is not None]
        order = first + [t for t in range(rollout["num_frames"]) if t not in first]
        for t in order:
            if frames and truth_index >= frames:
                break
            image = enlarge(clip[t], index["factor"], index["size"])
            for logits in client.frame(t, image, entries.get(t, []), arrays, index["factor"]):
                answer = rollout["answers"][truth_index]
                overlap, bound = iou(logits > 0, truths[truth_index] > 0, pixels), answer["least_iou"]
                row = {
                    "part": "loop",
                    "where": f"rollout {rollout['name']}, frame {t}",
                    "torch_presence": answer["presence"],
                }
                rows.append({**row, "iou": overlap, "bound": bound, "ok": overlap >= bound})
                truth_index += 1
    return rows


class Client:
    """One object's loop: what an app does, in numpy. The names are those of manifest.json."""

    def __init__(self, loop, predict):
        self.loop, self.predict = loop, predict
        self.memories = [None] * loop["num_memories"]  # (frame, prompted, tokens)
        self.pointers = [None] * loop["num_pointers"]  # (frame, prompted, pointer)

    def frame(self, t, image, prompts, arrays, factor):
        """Answers of one frame, in order; the last one is remembered."""
        features = self.predict("image_encoder", {"image": image[None]})
        high = {name: features[name] for name in ("feats_s0", "feats_s1") if name in features}
        answers, memory = [], None
        clicks, labels = [], []
        embedding = features["image_embedding"]
        for entry in prompts or [None]:
            if entry is None:
                step = self.predict("track_step", {"vision_features": features["vision_features"], **high, **self.slots(t)})
                embedding, memory = step["image_embedding"], step["memory_out"]
                answers.append((step["low_res_mask"][0, 0], step["obj_ptr"][0], step["obj_score"].item()))
                continue
            memory = None
            if "mask" in entry:
                answers.append(
                    self.answer_with_mask(features, high, enlarge(arrays[entry["mask"]], factor, self.loop["size"]))
                )
                continue
            clicks, labels = clicks + entry["points"], labels + entry["labels"]
            previous = answers[-1][0] if answers else None
            answers.append(self.ask(embedding, high, clicks, labels, previous))
        logits, pointer, presence = answers[-1]
        if memory is None:
            inputs = {
                "vision_features": features["vision_features"],
                "mask_logits": logits[None, None],
                "binarize": np.zeros(1),
            }
            if self.loop["memory_needs_presence"]:
                inputs["obj_score"] = np.array([[presence]])
            memory = self.predict("memory_encoder", inputs)["memory"]
        for slots, kept in ((self.memories, np.asarray(memory)[0]), (self.pointers, pointer)):
            entry = (t, bool(prompts), kept)
            place = place_of(slots, entry)
            if place is not None:
                slots[place] = entry
        return [answer[0] for answer in answers]

    def ask(self, embedding, high, clicks, labels, previous):
        """PromptDecoder, then the manifest's rules `choice` and `presence`."""
        clamped = None if previous is None else np.clip(previous, -32, 32)[None, None]
        found = self.decode(embedding, high, clicks, labels, clamped)
        first = 1 if len(labels) <= 1 else 0
        best = first + int(np.argmax(found["iou_scores"][0, first:])) if first else 0
        presence = found["obj_score"].item()
        mask = found["low_res_masks"][0, best]
        if presence <= 0:
            mask = np.full_like(mask, self.loop["absent_logit"])
        return mask, found["obj_ptrs"][0, best], presence

    def answer_with_mask(self, features, high, mask):
        """The manifest's rule `mask_prompt`."""
        kernel = np.array(self.loop["mask_kernel"])
        low, given = self.loop["size"] // 4, self.loop["given_logit"]
        blocks = mask.astype(np.float64).reshape(low, 4, low, 4)
        shrunk = np.einsum("ayxb,yb->ax", blocks, kernel) + self.loop["mask_bias"]
        found = self.decode(features["vision_features"], high, [], [], shrunk[None, None])
        weights = shrink_weights(self.loop["size"], low)
        logits = weights @ (given * (2.0 * mask - 1)) @ weights.T
        pointer = found["obj_ptrs"][0, 0] if mask.any() else np.array(self.loop["absent_pointer"])
        return logits, pointer, given if mask.any() else -given

    def decode(self, embedding, high, clicks, labels, previous):
        slots, low = self.loop["prompt_slots"], self.loop["size"] // 4
        points, kinds = np.zeros((1, slots, 2), np.float32), np.full((1, slots), UNUSED, np.int32)
        if clicks:
            points[0, : len(clicks)], kinds[0, : len(labels)] = clicks, labels
        else:
            kinds[0, 0] = PADDING
        mask = np.zeros((1, 1, low, low)) if previous is None else previous
        inputs = {"image_embedding": embedding, **high, "points": points, "labels": kinds, "mask_input": mask}
        return self.predict("prompt_decoder", {**inputs, "has_mask": np.full(1, float(previous is not None))})

    def slots(self, t):
        """The bank in TrackStep's shapes: the manifest's rule `bank`."""
        loop = self.loop
        memory = np.zeros((1, loop["num_memories"], loop["tokens"], loop["memory_dim"]))
        age = np.full((1, loop["num_memories"]), EMPTY, np.int32)
        for i, slot in enumerate(self.memories):
            if slot is not None:
                memory[0, i] = slot[2]
                distance = t - slot[0]
                age[0, i] = 0 if slot[1] else distance if 1 <= distance <= loop["recent_memories"] else EMPTY
        pointers = np.zeros((1, loop["num_pointers"], loop["dim"]))
        valid, ages = np.zeros((1, loop["num_pointers"])), np.zeros((1, loop["num_pointers"]), np.float32)
        for i, slot in enumerate(self.pointers):
            if slot is not None:
                pointers[0, i], ages[0, i] = slot[2], t - slot[0]
                valid[0, i] = ages[0, i] >= 0 if slot[1] else 1 <= ages[0, i] <= loop["recent_pointers"]
        slots = {"memory": memory, "memory_age": age, "obj_ptrs": pointers, "obj_ptr_valid": valid}
        return {**slots, "obj_ptr_age": ages} if loop["pointer_ages"] else slots


def place_of(slots, entry):
    """Where (frame, prompted, ...) goes: its own slot, else an empty one, else that of the farthest unprompted frame, else
    (prompted) of the farthest frame; None where it has no place."""
    t, prompted, _ = entry
    own = [i for i, slot in enumerate(slots) if slot is not None and slot[0] == t]
    empty = [i for i, slot in enumerate(slots) if slot is None]
    if own or empty:
        return (own or empty)[0]
    passing = [i for i, slot in enumerate(slots) if not slot[1]]
    giving_way = passing or (range(len(slots)) if prompted else ())
    return max(giving_way, key=lambda i: abs(t - slots[i][0]), default=None)


def enlarge(small, factor, size):
    """(..., s, s) -> (..., size, size) by repetition."""
    return small.repeat(factor, -1).repeat(factor, -2)[..., :size, :size]


def shrink_weights(size, low):
    """(low, size): one axis of an antialiased bilinear resize."""
    scale = size / low
    centre = (np.arange(low)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(size)[None] + 0.5 - centre) / scale, 0, None)
    return weights / weights.sum(1, keepdims=True)


def iou(value, truth, pixels):
    """IoU; 1 where the masks differ in at most `pixels` pixels."""
    value, truth = np.squeeze(value), np.squeeze(truth)
    if (value ^ truth).sum() <= pixels:
        return 1.0
    return float((value & truth).sum() / (value | truth).sum())


class Programs:
    """The packages under the runtime of their format: numpy in and out. A subclass opens and runs one."""

    def __init__(self, folder, parts, units):
        self.models, self.units, self.wire, self.outputs, self.states = {}, {}, {}, {}, {}
        for part in parts:
            role = part["role"]
            self.units[role] = part["compute_units"] if units == "recommended" else units
            self.wire[role] = {feature["name"]: feature["dtype"] for feature in part["inputs"]}
            self.outputs[role] = [feature["name"] for feature in part["outputs"]]
            self.states[role] = {feature["name"]: feature for feature in part["states"]}
            self.models[role] = self.open(folder / part["file"], part)

    def __call__(self, role, inputs):
        return self.run(role, self.all_sent(role, inputs))

    def all_sent(self, role, inputs):
        """Inputs as the package takes them. Where memories are the runtime's state, they are put there for every call."""
        kinds, inputs = dict(self.wire[role]), dict(inputs)
        for name, state in self.states[role].items():
            inputs[name] = inputs.pop("memory", np.zeros(state["shape"]))
            inputs["memory_slot"], kinds[name] = np.full(1, WRITTEN), state["dtype"]
        return {name: self.sent(kinds[name], value) for name, value in inputs.items()}

    def open(self, path, part):
        """The program of a part, ready to run."""
        raise NotImplementedError

    def run(self, role, inputs):
        """A part's outputs by name, for inputs as it takes them."""
        raise NotImplementedError

    def sent(self, kind, value):
        """An input as the package takes it."""
        if kind == "image":  # Core ML alone
            from PIL import Image

            return Image.fromarray(np.asarray(value, np.uint8)[0].transpose(1, 2, 0))
        return np.ascontiguousarray(value, dtype={"fp16": np.float16, "fp32": np.float32, "int32": np.int32}[kind])

    def plan(self, role):
        """How many operations would run on which device, where the runtime says so."""
        return {}

    def time(self, role, inputs, runs):
        """Milliseconds of one prediction: median, 95th percentile and worst, after two runs to warm up."""
        spent = []
        for run in range(runs + 2):
            sent = self.all_sent(role, inputs)
            start = time.perf_counter()
            self.run(role, sent)
            if run >= 2:
                spent.append(1000 * (time.perf_counter() - start))
        return {"median": float(np.median(spent)), "p95": float(np.percentile(spent, 95)), "max": max(spent)}


class CoreMLPrograms(Programs):
    """Core ML, on a Mac."""

    def open(self, path, part):
        import coremltools as ct

        names = {"all": "ALL", "cpuAndGPU": "CPU_AND_GPU", "cpuOnly": "CPU_ONLY", "cpuAndNeuralEngine": "CPU_AND_NE"}
        options = {"function_name": part["function"]} if part["function"] else {}
        return ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[names[self.units[part["role"]]]], **options)

    def run(self, role, inputs):
        return self.models[role].predict(inputs)

    def plan(self, role):
        """How many operations Core ML would run on which device."""
        from coremltools.models.compute_plan import MLComputePlan

        model = self.models[role]
        plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), model.compute_unit)
        if plan.model_structure.program is None:
            return {"no program": 0}
        count = {}
        for function in plan.model_structure.program.functions.values():
            for operation in function.block.operations:
                usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
                device = "no device" if usage is None else type(usage.preferred_compute_device).__name__
                count[device] = count.get(device, 0) + 1
        return count


class CoreAIPrograms(Programs):
    """Core AI: macOS 27, and its runtime for the CPU on Linux. It chooses the device itself."""

    def open(self, path, part):
        import asyncio
        import contextlib

        authoring, runtime = (import_module(f"coreai.{name}") for name in ("authoring", "runtime"))
        if not hasattr(self, "loop"):
            self.loop, self.array, self.opened, self.stack = (
                asyncio.Runner(),
                runtime.NDArray,
                {},
                contextlib.AsyncExitStack(),
            )
        if path not in self.opened:  # several functions may share one asset
            asset = authoring.AIModelAsset.load(path)
            self.opened[path] = self.loop.run(self.stack.enter_async_context(asset.executable()))
        return self.opened[path].load_function(part["function"])

    def run(self, role, inputs):
        states = {name: self.array(inputs.pop(name)) for name in self.states[role]}

        async def call():
            return await self.models[role](inputs={name: self.array(value) for name, value in inputs.items()}, state=states)

        results = {name: np.array(value.numpy(), dtype=np.float32) for name, value in self.loop.run(call()).items()}
        for name, array in states.items():  # the program has written its memory into the slot that it was told
            kept, made = np.array(array.numpy()), results["memory_out" if role == "track_step" else "memory"]
            if not np.array_equal(kept[0, WRITTEN], made[0]):
                raise SystemExit(
                    f"{role}: the runtime has not written into the state {name!r}; do not use these packages on it."
                )
        return results


class ExecuTorchPrograms(Programs):
    """ExecuTorch's runtime."""

    def open(self, path, part):
        return import_module("executorch.runtime").Runtime.get().load_program(path).load_method("forward")

    def run(self, role, inputs):
        import torch

        results = self.models[role].execute([torch.from_numpy(inputs[name]) for name in self.wire[role]])
        return {name: value.numpy().copy() for name, value in zip(self.outputs[role], results)}


class LiteRTPrograms(Programs):
    """LiteRT's runtime."""

    def open(self, path, part):
        return import_module("ai_edge_litert.interpreter").Interpreter(str(path)).get_signature_runner()

    def run(self, role, inputs):
        return self.models[role](**inputs)


class OnnxPrograms(Programs):
    """onnxruntime on the CPU."""

    def open(self, path, part):
        import onnxruntime

        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, role, inputs):
        return dict(zip(self.outputs[role], self.models[role].run(self.outputs[role], inputs)))


RUNTIMES = {
    "coreml": (CoreMLPrograms, "coremltools numpy pillow"),
    "coreai": (CoreAIPrograms, "coreai-core numpy"),
    "executorch": (ExecuTorchPrograms, "executorch torch numpy"),
    "litert": (LiteRTPrograms, "ai-edge-litert numpy"),
    "onnx": (OnnxPrograms, "onnxruntime numpy"),
}
"""By the manifest's `backend`: who runs the packages, and what pip has to install."""


def show(report):
    """Print the report as text."""
    verdict = "passed" if report["passed"] else "FAILED"
    print(f"{verdict}: {len(report['rows'])} comparisons, {len(report['failures'])} failures")
    for row in report["failures"][:20]:
        print("  ", row)
    for role, spent in report["timing_ms"].items():
        print(f"{role:<16} median {spent['median']:7.1f} ms  p95 {spent['p95']:7.1f}  max {spent['max']:7.1f}  "
              f"on {report['units'][role]}: {report['compute_plan'][role]}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
