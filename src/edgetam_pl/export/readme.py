"""The README beside the packages, for whoever writes the app: what the files are, the loop, a sketch in Swift."""

from __future__ import annotations

import os
from pathlib import Path

from edgetam_pl.export.manifest import Manifest, PartEntry

FILE = "README.md"


def write_readme(manifest: Manifest, folder: Path) -> Path:
    """Write README.md into `folder`."""
    path = folder / FILE
    draft = folder / (FILE + ".tmp")
    draft.write_text(text(manifest), encoding="utf-8")
    os.replace(draft, path)
    return path


def text(manifest: Manifest) -> str:
    """The page."""
    loop = manifest.loop
    parts = "\n\n".join(_part(part) for part in manifest.parts)
    rules = "\n".join(f"- **{name.replace('_', ' ')}**: {rule}" for name, rule in manifest.rules.items())
    swift = _swift(manifest) if manifest.backend == "coreml" else _other(manifest)
    checkpoint, version = manifest.checkpoint or "a model in memory", manifest.versions["edgetam_pl"]
    target = ", ".join(word for word in (manifest.backend, manifest.precision, manifest.system) if word)
    apple = manifest.apple_hardware[:1].upper() + manifest.apple_hardware[1:]
    return f"""# {manifest.name}: track any object, on the device

{len(manifest.parts)} stateless programs of fixed shape, made from `{checkpoint}` by EdgeTAM-PL {version} ({target}).
The app keeps the memory; a frame costs one run of ImageEncoder, and one run of TrackStep for each object. What a program
would want to read stands in `manifest.json`; this page is for people.

**Checked** against the PyTorch model before they got their name: part by part, and over rollouts with occlusion, exit and
re-entry (`export_report.json`). **{apple}**: speed, and where each operation runs, are for you to measure, see below.

## The programs

{parts}

## The loop

{rules}

State per object: {loop.num_memories} x {loop.tokens} x {loop.memory_dim} memory tokens and {loop.num_pointers} x {loop.dim}
pointers. Undo, and several objects, are copies of that.

{swift}

## Measure it

1. `python validate_on_mac.py` on a Mac (`pip install coremltools numpy pillow`): the same gate on Core ML itself, timings,
   and on which device each operation would run; writes `mac_report.json`. `--units cpuAndGPU` and the others compare.
2. In Xcode: open a package, tab *Performance*, *+*, choose the phone and the compute units, *Run Test*. The report gives
   load and prediction times and, per operation, the device it runs on. Do it for every package; look for operations that
   fall to the CPU on the phone though they did not on the Mac.
3. Time the whole loop in the app, not the sum of the parts: p50, p95 and the worst frame, after a minute of running (heat),
   for one and for three objects. Report device, system version and compute units with every number.

Start with the compute units below; they are a recommendation, not a measurement, and a package cannot hold them itself:
{", ".join(f"{part.name} `.{part.compute_units}`" for part in manifest.parts)}.
"""


def _part(part: PartEntry) -> str:
    where = f"`{part.file}`" + (f", function `{part.function}`" if part.function else "")
    rows = [f"### {part.name}", "", where + f", {part.bytes / 1e6:.1f} MB", "", "| | name | shape | type | |", "|-|-|-|-|-|"]
    for side, features in (("in", part.inputs), ("out", part.outputs)):
        for feature in features:
            shape = " x ".join(str(n) for n in feature.shape)
            rows.append(f"| {side} | `{feature.name}` | {shape} | {feature.dtype} | {feature.meaning} |")
    return "\n".join(rows)


def _other(manifest: Manifest) -> str:
    return f"""## Elsewhere than in Swift

Any ONNX runtime plays these files: images are float32 tensors (1, 3, S, S), RGB, 0 ... 255, S = {manifest.loop.size}.
`validate_on_mac.py` holds the whole loop in numpy (class `Client`), 100 lines to translate from.
"""


def _swift(manifest: Manifest) -> str:
    loop = manifest.loop
    scalar = "Float16" if manifest.precision == "fp16" else "Float"
    high = ", feats_s0: look.feats_s0, feats_s1: look.feats_s1" if loop.high_res else ""
    ages = ", obj_ptr_age: pointerAges" if loop.pointer_ages else ""
    presence = ", obj_score: presence" if loop.memory_needs_presence else ""
    functions = ""
    if any(part.function for part in manifest.parts):
        functions = (
            "\nThe programs are functions of one package: load it once per program, with\n"
            '`MLModelConfiguration.functionName = "track_step"` and so on.\n'
        )
    return f"""## A sketch in Swift

Xcode generates a class for each package. The sketch is not compiled here.
{functions}
```swift
import CoreML

/// What is kept of one object. Slots have no order.
struct Bank {{
    struct Entry {{ var frame: Int; var prompted: Bool; var memory: MLMultiArray; var pointer: MLMultiArray }}
    private(set) var memories = [Entry?](repeating: nil, count: {loop.num_memories})
    private(set) var pointers = [Entry?](repeating: nil, count: {loop.num_pointers})

    mutating func store(_ entry: Entry) {{
        Bank.store(entry, in: &memories)
        Bank.store(entry, in: &pointers)
    }}

    /// Own slot, else an empty one, else that of the farthest unprompted frame, else (prompted) of the farthest frame.
    private static func store(_ entry: Entry, in slots: inout [Entry?]) {{
        func distance(_ i: Int) -> Int {{ abs(entry.frame - slots[i]!.frame) }}
        let passing = slots.indices.filter {{ slots[$0]?.prompted == false }}
        let place = slots.firstIndex {{ $0?.frame == entry.frame }}
            ?? slots.firstIndex {{ $0 == nil }}
            ?? passing.max {{ distance($0) < distance($1) }}
            ?? (entry.prompted ? slots.indices.max {{ distance($0) < distance($1) }} : nil)
        if let place {{ slots[place] = entry }}
    }}

    func age(_ slot: Int, at t: Int) -> Int32 {{
        guard let entry = memories[slot] else {{ return -1 }}
        if entry.prompted {{ return 0 }}
        let age = t - entry.frame
        return (1...{loop.recent_memories}).contains(age) ? Int32(age) : -1
    }}

    func isValid(_ slot: Int, at t: Int) -> Bool {{
        guard let entry = pointers[slot] else {{ return false }}
        let distance = t - entry.frame
        return entry.prompted ? distance >= 0 : (1...{loop.recent_pointers}).contains(distance)
    }}
}}

// Once per frame: the camera's pixel buffer, stretched to {loop.size} x {loop.size} (no letterbox).
let look = try encoder.prediction(image: buffer)

// A click (x, y) in pixels of the stretched frame; the other slots are switched off with label -2.
let points = try MLMultiArray(shape: [1, {loop.prompt_slots}, 2], dataType: .float32)
let labels = try MLMultiArray(shape: [1, {loop.prompt_slots}], dataType: .int32)
for i in 0..<{loop.prompt_slots} {{ labels[i] = -2 }}
points[0] = NSNumber(value: x); points[1] = NSNumber(value: y); labels[0] = 1
let said = try decoder.prediction(image_embedding: look.image_embedding{high},
                                  points: points, labels: labels, mask_input: noMask, has_mask: zero)
// One click: the best of masks 1 ... 3. Two clicks or more, or a box: mask 0.
let best = (1...3).max {{ said.iou_scores[$0].floatValue < said.iou_scores[$1].floatValue }}!
// obj_score <= 0: the object is absent; hand {loop.absent_logit} everywhere to the memory encoder instead of the mask.
let stored = try memorizer.prediction(vision_features: look.vision_features,
                                      mask_logits: mask(said.low_res_masks, best), binarize: zero{presence})
bank.store(.init(frame: t, prompted: true, memory: stored.memory, pointer: row(said.obj_ptrs, best)))

// Every other frame, for each object: `memory` and `obj_ptrs` are {scalar} arrays filled from the slots.
let step = try tracker.prediction(vision_features: look.vision_features{high},
                                  memory: memory, memory_age: ages, obj_ptrs: pointers, obj_ptr_valid: valid{ages})
show(step.low_res_mask)        // logits at {loop.low} x {loop.low}; above 0 is the object; resize to the view
bank.store(.init(frame: t, prompted: false, memory: step.memory_out, pointer: step.obj_ptr))

// A click that corrects this frame: PromptDecoder on step.image_embedding, mask_input = step.low_res_mask clamped to +-32,
// has_mask = 1; then MemoryEncoder, and store with prompted: true.
```
"""
