"""The teacher's F16 of images, kept on disk: on a small set it encodes every image once, not every epoch."""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetam_pl.io.atomic import atomic_path

_LOG = logging.getLogger(__name__)


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
        kept = [self._read(key) for key in keys]
        missing = [i for i, f16 in enumerate(kept) if f16 is None]
        if missing:
            for i, f16 in zip(missing, encode(images[missing][:, None]).half().cpu(), strict=True):
                kept[i] = f16.numpy()
                self._write(keys[i], f16.numpy())
        return (
            torch.from_numpy(np.stack([f16 for f16 in kept if f16 is not None])).to(frames.device, non_blocking=True).float()
        )

    def _write(self, key: str, f16: NDArray[np.float16]) -> None:
        file = io.BytesIO()
        np.save(file, f16)
        with atomic_path(self._path(key)) as draft:
            draft.write_bytes(file.getvalue() + _checksum(file.getvalue()))  # np.load does not mind what follows the array

    def _read(self, key: str) -> NDArray[np.float16] | None:
        """What is kept under a key; None where nothing is, or what is there is damaged, which is said."""
        path = self._path(key)
        if not path.is_file():
            return None
        data = path.read_bytes()
        if len(data) <= 4 or _checksum(data[:-4]) != data[-4:]:
            _LOG.warning("%s is damaged, or of an earlier version; the teacher is asked again.", path)
            return None
        return np.load(io.BytesIO(data))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


def _checksum(data: bytes) -> bytes:
    """CRC-32, 4 bytes."""
    return zlib.crc32(data).to_bytes(4, "little")
