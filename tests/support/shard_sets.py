"""Shards for tests: small generated sets, a loader over them, and tars written member by member."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import DataConfig, DataSource, ShardsConfig
from edgetam_pl.data.build import run
from edgetam_pl.data.loader import ShardLoader, build_loader
from edgetam_pl.data.shards import load_index
from edgetam_pl.data.tars import read_members
from edgetam_pl.datasets.toy_clips import toy_clip

Members = dict[str, bytes]
SIZE = (24, 32)
"""Of frames in folders (H, W)."""


def build(out: Path, **changes: object) -> Path:
    """Shards of 20 generated clips of 4 frames, 7 to a shard."""
    values: dict[str, object] = {"clips": 20, "frames": 4, "size": 32, "objects": 2, "group": 7, "processes": 1}
    run(ShardsConfig(source="toy", out=str(out), **(values | changes)))  # type: ignore[arg-type]
    return out


def loader(
    places: list[str],
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    steps: int = 20,
    batch: int = 1,
    max_skips: float = 0.05,
) -> ShardLoader:
    """Clips of 3 frames at 32 px; places with "thirteen" in their name hold images."""
    kinds = ["image" if "thirteen" in place else "video" for place in places]
    sources = [DataSource(name=f"s{i}", shards=place, kind=kind) for i, (place, kind) in enumerate(zip(places, kinds))]
    return build_loader(
        DataConfig(sources, workers=workers, max_skips=max_skips),
        image_size=32,
        num_frames=3,
        batch=batch,
        max_objects=2,
        steps=steps,
        seed=3,
        rank=rank,
        world_size=world,
        train=True,
    )


def train(places: list[str], log: Path, state: Path, *, workers: int, steps: int = 80) -> None:
    """A training of one convolution that notes step, keys and loss, saves itself at every step and goes on from there."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Conv2d(3, 1, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    made = loader(places, workers=workers, steps=steps)
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        made.load_state_dict(saved["loader"])
    for batch in made:
        frames = batch.frames[batch.video_of].flatten(0, 1).float() / 255
        masks = batch.masks.transpose(0, 1).flatten(0, 1)[:, None].float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(frames), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with log.open("a") as file:
            file.write(json.dumps([made.batches, batch.keys, loss.item()]) + "\n")
        partial = state.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "loader": made.state_dict()}, partial)
        partial.replace(state)


def contents(tar: Path) -> dict[str, Members]:
    """All samples of a shard: their members by key."""
    entries = load_index(str(tar)).entries
    return {e.key: read_members(str(tar), e, [member.suffix for member in e.members]) for e in entries}


def write_tar(path: Path, samples: dict[str, Members]) -> Path:
    """A tar as another program would write it: without index."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def spoil_masks(folder: Path, path: Path) -> Path:
    """All samples in one tar, the masks of every third one unreadable: nobody notices before they are decoded."""
    samples = {key: members for tar in sorted(folder.glob("*.tar")) for key, members in contents(tar).items()}
    for key in list(samples)[::3]:
        raw = json.loads(samples[key]["json"])
        raw["masks"] = [["~~"] * len(raw["frames"]) for _ in raw["masks"]]
        samples[key]["json"] = json.dumps(raw).encode()
    return write_tar(path, samples)


def save_labels(path: Path, labels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


def save_frame(path: Path, frame: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path, quality=95)


def palette_folder(root: Path, videos: dict[str, list[int]], *, objects: int = 2, middle: str = "") -> None:
    """JPEGImages/ and Annotations/ with these frame numbers."""
    for seed, (video, numbers) in enumerate(videos.items()):
        frames, masks = toy_clip(seed, len(numbers), SIZE, objects)
        for t, number in enumerate(numbers):
            labels = sum((o + 1) * masks[t, o].astype(np.uint8) for o in range(objects))
            labels[0, 0] = 255  # void
            save_frame(root / "JPEGImages" / middle / video / f"{number:05d}.jpg", frames[t])
            save_labels(root / "Annotations" / middle / video / f"{number:05d}.png", labels.astype(np.uint8))
