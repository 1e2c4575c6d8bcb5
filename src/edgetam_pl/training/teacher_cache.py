"""The teacher's F16 of images, kept on disk: on a small set it encodes every image once, not every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.io.atomic import atomic_path


class TeacherFeatureCache:
    """F16 by the content of the image as it was augmented, so a flipped image has an entry of its own (a teacher's answer
    to a flipped image is not the flipped answer). fp16 on disk; whoever writes first wins, and ranks may share a folder.
    """

    def __init__(self, folder: Path, *, teacher: str) -> None:
        """`teacher` is the hash of its weights: another teacher has other entries."""
        self.folder = folder / teacher[:16]

    def of(self, frames: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """(B*T, C, S/16, S/16) fp32 on the device of `frames` (B, T, 3, S, S) uint8. `encode` makes what is missing, from
        images (N, 1, 3, S, S). The host looks at the images, so a GPU is waited for."""
        images = frames.flatten(0, 1)  # (B*T, 3, S, S)
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() for image in images.cpu()]
        missing = [i for i, key in enumerate(keys) if not self._path(key).is_file()]
        if missing:
            for i, f16 in zip(missing, encode(images[missing][:, None]).half().cpu(), strict=True):
                with atomic_path(self._path(keys[i])) as draft:
                    np.save(draft, f16.numpy())
        kept = np.stack([np.load(self._path(key)) for key in keys])
        return torch.from_numpy(kept).to(frames.device, non_blocking=True).float()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"
