"""How fast is one data worker? Ours against SAM 2-style loading and against the floor, in one run, interleaved.

    python benchmarks/loader.py                     # clips and images; needs the shared data
    python benchmarks/loader.py --only clips --rounds 9
    python benchmarks/loader.py --memory            # resident memory over 2,000 samples

clips   8 frames of DAVIS 2016 (854 x 480) at 1024 px, 3 objects (the annotated one cut into three), Table 5's augmentation.
images  COCO images enlarged to 2250 x 1500 with 100 masks each, as SA-1B has them; at most 64 are used, at 1024 px.

Contestants:
  sam2   plain torchvision and PIL, as SAM 2's loader does it: JPEG and PNG or RLE folders, every mask on its own, floats.
  floor  decode those frames and masks and resize each once; nothing else. Not a loader: there is no choice, no batch.
  ours   edgetam_pl.data, from shards, as a worker runs it; with the unpacking that the training process does; without
         augmentation, as when the device augments; and what the device then spends (wall seconds, where it is a GPU).

The floor is given twice: with masks read by pycocotools, and (tight) with our own reader of runs, eight masks to a byte.
Ratios of medians are what counts. CPU seconds stand beside wall seconds, because a shared machine disturbs the latter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

import edgetam_pl  # noqa: F401  (before torchvision)
from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig
from edgetam_pl.data.build import run as build
from edgetam_pl.data.collate import Slots
from edgetam_pl.data.device import augmented
from edgetam_pl.data.loader import ShardLoader, build_loader
from edgetam_pl.data.steps import PREFETCH, Steps
from edgetam_pl.io import rle

SIDE = 1024
FRAMES = 8
OBJECTS = 3
MASKS = 64
LATER = AugmentConfig(where="device")


@dataclass
class Contestant:
    """One way to make a sample; `make(k)` makes the k-th."""

    name: str
    make: Callable[[int], object]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def compare(contestants: list[Contestant], *, rounds: int, samples: int) -> dict[str, dict[str, float]]:
    """Seconds a sample, interleaved round by round."""
    for contestant in contestants:
        contestant.make(0)
    for number in range(rounds):
        for contestant in contestants:
            wall, cpu = time.perf_counter(), time.process_time()
            for k in range(samples):
                contestant.make(number * samples + k)
            contestant.wall.append((time.perf_counter() - wall) / samples)
            contestant.cpu.append((time.process_time() - cpu) / samples)
    return {
        c.name: {
            "cpu": statistics.median(c.cpu),
            "cpu_min": min(c.cpu),
            "cpu_max": max(c.cpu),
            "wall": statistics.median(c.wall),
        }
        for c in contestants
    }


# -------------------------------------------------------------------------------------------------- SAM 2-style loading


def transforms() -> Any:
    """torchvision's functional module; imported late, since ours does not need it."""
    import torchvision.transforms.functional as functional

    return functional


def sam2_clip(root: Path, video: str, first: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (T, 1, 3, S, S) float and masks (T, O, S, S) bool of a clip, transform after transform as the release does."""
    from torchvision.transforms import ColorJitter, InterpolationMode, RandomAffine

    F = transforms()
    names = sorted(path.stem for path in (root / "JPEGImages" / video).iterdir())[first : first + FRAMES]
    images, masks = [], []
    for name in names:
        images.append(Image.open(root / "JPEGImages" / video / f"{name}.jpg").convert("RGB"))
        labels = np.array(Image.open(root / "Annotations" / video / f"{name}.png"))
        masks.append([torch.from_numpy(labels == o + 1).to(torch.uint8) for o in range(OBJECTS)])
    if rng.random() < 0.5:
        images = [F.hflip(image) for image in images]
        masks = [[F.hflip(mask) for mask in frame] for frame in masks]
    size = [images[0].width, images[0].height]
    angle, _, _, shear = RandomAffine.get_params((-25, 25), None, None, (-20, 20), size)
    warped = [
        [F.affine(m[None], angle, (0, 0), 1.0, shear, interpolation=InterpolationMode.NEAREST, fill=0)[0] for m in frame]
        for frame in masks
    ]
    if all(mask.any() for mask in warped[0]):
        masks = warped
        images = [
            F.affine(image, angle, (0, 0), 1.0, shear, interpolation=InterpolationMode.BILINEAR, fill=(123, 116, 103))
            for image in images
        ]
    images = [F.resize(image, [SIDE, SIDE]) for image in images]
    masks = [[F.resize(mask[None], [SIDE, SIDE], antialias=True)[0] for mask in frame] for frame in masks]
    whole = ColorJitter.get_params([0.9, 1.1], [0.97, 1.03], [0.97, 1.03], None)
    images = [jitter(F, image, whole) for image in images]
    if rng.random() < 0.05:
        images = [F.rgb_to_grayscale(image, num_output_channels=3) for image in images]
    images = [jitter(F, i, ColorJitter.get_params([0.9, 1.1], [0.95, 1.05], [0.95, 1.05], None)) for i in images]
    frames = [normalise(F, image) for image in images]
    return torch.stack(frames)[:, None], torch.stack([torch.stack(frame).to(torch.bool) for frame in masks])


def jitter(F: Any, image: Image.Image, params: tuple[Any, ...]) -> Image.Image:
    order, brightness, contrast, saturation, _ = params
    for step in order:
        if step == 0:
            image = F.adjust_brightness(image, brightness)
        elif step == 1:
            image = F.adjust_contrast(image, contrast)
        elif step == 2:
            image = F.adjust_saturation(image, saturation)
    return image


def normalise(F: Any, image: Image.Image) -> torch.Tensor:
    return F.normalize(F.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def sam2_image(root: Path, name: str, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """An SA-1B image with at most 64 masks: decode each, flip, resize each with antialiasing."""
    F = transforms()
    image = Image.open(root / f"{name}.jpg").convert("RGB")
    annotations = json.loads((root / f"{name}.json").read_text())["annotations"]
    chosen = rng.sample(annotations, min(MASKS, len(annotations)))
    masks = [torch.from_numpy(coco.decode(entry["segmentation"])) for entry in chosen]
    if rng.random() < 0.5:
        image, masks = F.hflip(image), [F.hflip(mask) for mask in masks]
    image = F.resize(image, [SIDE, SIDE])
    masks = [F.resize(mask[None], [SIDE, SIDE], antialias=True)[0] for mask in masks]
    return normalise(F, image)[None, None], torch.stack(masks)[None].to(torch.bool)


# ---------------------------------------------------------------------------------------------------------------- floor


def floor_clip(root: Path, video: str, first: int, runs: dict[str, list[dict[str, Any]]]) -> int:
    """Decode 8 frames and their label maps (3 RLE each), resize each once."""
    names = sorted(path.stem for path in (root / "JPEGImages" / video).iterdir())[first : first + FRAMES]
    total = 0
    for name in names:
        frame = simplejpeg.decode_jpeg((root / "JPEGImages" / video / f"{name}.jpg").read_bytes())
        total += cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).nbytes
        labels = coco.decode(runs[f"{video}/{name}"])  # (H, W, 3)
        total += cv2.resize(labels, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).nbytes
    return total


def tight_floor_clip(root: Path, video: str, first: int, runs: dict[str, list[dict[str, Any]]]) -> int:
    """The same with the three masks as bits of one map."""
    names = sorted(path.stem for path in (root / "JPEGImages" / video).iterdir())[first : first + FRAMES]
    total = 0
    for name in names:
        frame = simplejpeg.decode_jpeg((root / "JPEGImages" / video / f"{name}.jpg").read_bytes())
        total += cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).nbytes
        canvas = np.zeros(frame.shape[1::-1], np.uint8)
        for plane, entry in enumerate(runs[f"{video}/{name}"]):
            rle.paint(rle.parse(entry["counts"].decode(), frame.shape[:2]), 1 << plane, canvas)
        total += cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).nbytes
    return total


def tight_floor_image(root: Path, name: str) -> int:
    """The same with scaled decoding, and masks as bits of eight maps of full size."""
    frame = simplejpeg.decode_jpeg((root / f"{name}.jpg").read_bytes(), min_height=SIDE, min_width=SIDE)
    total = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).nbytes
    entries = json.loads((root / f"{name}.json").read_text())["annotations"][:MASKS]
    for start in range(0, len(entries), 8):
        canvas = np.zeros((2250, 1500), np.uint8)
        for plane, entry in enumerate(entries[start : start + 8]):
            rle.paint(rle.parse(entry["segmentation"]["counts"], (1500, 2250)), 1 << plane, canvas)
        total += cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).nbytes
    return total


def floor_image(root: Path, name: str) -> int:
    """Decode an image and 64 masks, resize each once."""
    frame = simplejpeg.decode_jpeg((root / f"{name}.jpg").read_bytes())
    total = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).nbytes
    for entry in json.loads((root / f"{name}.json").read_text())["annotations"][:MASKS]:
        total += cv2.resize(coco.decode(entry["segmentation"]), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).nbytes
    return total


# ----------------------------------------------------------------------------------------------------------------- data


def three_objects(source: Path, out: Path) -> list[str]:
    """DAVIS 2016 with its one object cut into three along its longer side, as palette PNGs; frames are linked."""
    videos = []
    for folder in sorted((source / "Annotations").iterdir()):
        files = sorted(folder.glob("*.png"))
        if len(files) < 2 * FRAMES:
            continue
        videos.append(folder.name)
        target = out / "Annotations" / folder.name
        target.mkdir(parents=True)
        (out / "JPEGImages").mkdir(exist_ok=True)
        (out / "JPEGImages" / folder.name).symlink_to(source / "JPEGImages" / folder.name)
        for path in files:
            labels = np.array(Image.open(path))
            rows, columns = np.nonzero(labels)
            values = columns if not len(rows) or np.ptp(columns) > np.ptp(rows) else rows
            cut = np.zeros_like(labels)
            if len(values):
                cut[rows, columns] = 1 + np.minimum((values - values.min()) * OBJECTS // (np.ptp(values) + 1), OBJECTS - 1)
            picture = Image.fromarray(cut, mode="P")
            picture.putpalette([v for i in range(256) for v in (i, i, i)])
            picture.save(target / path.name)
    return videos


def large_images(source: Path, out: Path, count: int) -> list[str]:
    """COCO images at SA-1B's size with 100 masks each: their own, repeated at other places."""
    out.mkdir()
    names = []
    for path in sorted((source / "sa1b_json").glob("*.json")):
        raw = json.loads(path.read_text())
        picture = Image.open(source / "images" / f"{path.stem}.jpg").convert("RGB")
        if len(raw["annotations"]) < 4 or picture.width < picture.height:
            continue
        picture.resize((2250, 1500), Image.Resampling.BICUBIC).save(out / f"{path.stem}.jpg", quality=95)
        own = [coco.decode(entry["segmentation"]) for entry in raw["annotations"]]
        rng = np.random.default_rng(len(names))
        annotations: list[dict[str, Any]] = []
        while len(annotations) < 100:
            mask = cv2.resize(own[len(annotations) % len(own)], (2250, 1500), interpolation=cv2.INTER_NEAREST)
            if len(annotations) >= len(own):
                mask = np.roll(mask, (int(rng.integers(1500)), int(rng.integers(2250))), (0, 1))
            runs = coco.encode(np.asfortranarray(mask))
            runs["counts"] = runs["counts"].decode()
            annotations.append({"id": len(annotations), "segmentation": runs, "area": int(mask.sum())})
        image = {"image_id": len(names), "width": 2250, "height": 1500, "file_name": f"{path.stem}.jpg"}
        (out / f"{path.stem}.json").write_text(json.dumps({"image": image, "annotations": annotations}))
        names.append(path.stem)
        if len(names) == count:
            break
    return names


def loader(place: Path, *, kind: str, augment: AugmentConfig, side: int, steps: int = 4096) -> ShardLoader:
    return build_loader(
        DataConfig([DataSource(name=kind, shards=str(place), kind=kind)], augment, workers=0),
        image_size=side,
        num_frames=FRAMES,
        batch=1,
        max_objects=OBJECTS if kind == "video" else MASKS,
        steps=steps,
        seed=0,
        rank=0,
        world_size=1,
        train=True,
    )


def worker(place: Path, *, kind: str, augment: AugmentConfig, side: int = SIDE) -> Steps:
    """What a data worker calls: batch number k, in shared memory that is used again."""
    steps = loader(place, kind=kind, augment=augment, side=side).steps
    steps.slots = Slots(PREFETCH + 2)
    return steps


# ----------------------------------------------------------------------------------------------------------------- runs


def clips(shared: Path, work: Path, *, rounds: int, samples: int, device: str) -> dict[str, Any]:
    root = work / "davis3"
    videos = three_objects(shared / "davis16_train", root)
    build(ShardsConfig(source="davis", root=str(root), out=str(work / "clips"), processes=1, check=False))
    runs: dict[str, list[dict[str, Any]]] = {}
    for video in videos:
        for path in (root / "Annotations" / video).glob("*.png"):
            labels = np.array(Image.open(path))
            stack: NDArray[np.uint8] = np.stack([labels == o + 1 for o in range(OBJECTS)], axis=2).astype(np.uint8)
            runs[f"{video}/{path.stem}"] = coco.encode(np.asfortranarray(stack))
    rng = random.Random(0)
    torch.manual_seed(0)
    full, later = (worker(work / "clips", kind="video", augment=a) for a in (AugmentConfig(), LATER))
    waiting = later.batch_at(0).batch.unpack().to(device)

    def on_device(_: int) -> None:
        augmented(waiting)
        if device != "cpu":
            torch.cuda.synchronize()

    return compare(
        [
            Contestant("sam2", lambda k: sam2_clip(root, videos[k % len(videos)], k % FRAMES, rng)),
            Contestant("floor", lambda k: floor_clip(root, videos[k % len(videos)], k % FRAMES, runs)),
            Contestant("tight floor", lambda k: tight_floor_clip(root, videos[k % len(videos)], k % FRAMES, runs)),
            Contestant("ours", lambda k: full.batch_at(k)),
            Contestant("ours, unpacked too", lambda k: full.batch_at(k).batch.unpack()),
            Contestant("ours, device augments", lambda k: later.batch_at(k)),
            Contestant(f"  that device ({device})", on_device),
        ],
        rounds=rounds,
        samples=samples,
    )


def images(shared: Path, work: Path, *, rounds: int, samples: int, device: str) -> dict[str, Any]:
    root = work / "sa1b"
    names = large_images(shared / "coco_dev", root, 12)
    build(ShardsConfig(source="sa1b", root=str(root), out=str(work / "images"), processes=1, check=False))
    rng = random.Random(0)
    ours = worker(work / "images", kind="image", augment=AugmentConfig())
    return compare(
        [
            Contestant("sam2", lambda k: sam2_image(root, names[k % len(names)], rng)),
            Contestant("floor", lambda k: floor_image(root, names[k % len(names)])),
            Contestant("tight floor", lambda k: tight_floor_image(root, names[k % len(names)])),
            Contestant("ours", lambda k: ours.batch_at(k)),
            Contestant("ours, unpacked too", lambda k: ours.batch_at(k).batch.unpack()),
        ],
        rounds=rounds,
        samples=max(samples // 2, 1),
    )


def memory(shared: Path, work: Path) -> dict[str, float]:
    """Resident megabytes of a worker after 200, 1,000 and 2,000 samples at 256 px."""
    build(
        ShardsConfig(source="davis", root=str(shared / "davis16_train"), out=str(work / "memory"), processes=1, check=False)
    )
    steps = worker(work / "memory", kind="video", augment=AugmentConfig(), side=256)
    marks: dict[str, float] = {}
    for k in range(2000):
        steps.batch_at(k)
        if k + 1 in (200, 1000, 2000):
            marks[str(k + 1)] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    return marks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shared", type=Path, default=None, help="folder with data/ (default: $EDGETAM_SHARED or ../shared)"
    )
    parser.add_argument("--only", choices=["clips", "images"], default=None)
    parser.add_argument("--memory", action="store_true", help="only resident memory over 2,000 samples")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=4, help="samples of each contestant in a round")
    parser.add_argument("--device", default="cpu", help="device of the augmentation that workers leave out: cpu | cuda")
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON")
    args = parser.parse_args()
    shared = args.shared or Path(os.environ.get("EDGETAM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (shared / "data").is_dir():
        print(
            f"No data at {shared}; set --shared to the folder that holds data/davis16_train and data/coco_dev.",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    work = Path(tempfile.mkdtemp(prefix="loader-"))
    found: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg()[0]}
    try:
        if args.memory:
            found["memory"] = memory(shared / "data", work)
        else:
            for name, measure in (("clips", clips), ("images", images)):
                if args.only in (None, name):
                    found[name] = measure(
                        shared / "data", work, rounds=args.rounds, samples=args.samples, device=args.device
                    )
                    show(name, found[name])
    finally:
        shutil.rmtree(work)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found))
    return 0


def show(name: str, figures: dict[str, dict[str, float]]) -> None:
    """A table with the two ratios that matter."""
    print(f"\n{name}: seconds a sample, one process, one thread")
    print(f"{'':24}{'CPU, median [min - max]':>28}{'wall':>8}{'x sam2':>9}{'% of floor':>12}{'% of tight':>12}")
    for key, row in figures.items():
        spread = f"{row['cpu']:.3f} [{row['cpu_min']:.3f} - {row['cpu_max']:.3f}]"
        times = figures["sam2"]["cpu"] / row["cpu"]
        share, tight = (100 * figures[floor]["cpu"] / row["cpu"] for floor in ("floor", "tight floor"))
        print(f"{key:24}{spread:>28}{row['wall']:8.3f}{times:9.1f}{share:12.0f}{tight:12.0f}")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV {cv2.__version__}"
    return f"{model}, {os.cpu_count()} cores, {versions}"


if __name__ == "__main__":
    raise SystemExit(main())
