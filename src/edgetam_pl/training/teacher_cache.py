"""The teacher's answers, kept on disk: what was asked once is not asked again, nor by another run with the same samples.

Kept are F16 of every image, and for clips F_M of every object on the frames that recalled something. Entries are found by
what the teacher was shown and told: pixels as they were augmented, masks and clicks. What a run draws follows from its seed,
so a run of the same data, augmentation and seed asks the same, whoever the student is; a flipped image has its own entry.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.types import FrameOutput, Prompts

_LOG = logging.getLogger(__name__)

PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
"""fp16: half the space, values are rounded. fp32: a run is bit for bit the one that asks its teacher."""


class MissingAnswerError(ValueError):
    """An answer is not in the cache, and the teacher is not there to be asked."""


class TeacherFeatureCache:
    """Answers of one teacher in a folder. Whoever writes first wins, and ranks may share the folder."""

    def __init__(self, folder: Path, *, teacher: str, precision: str = "fp16", closed: bool = False) -> None:
        """
        Args:
            teacher: the hash of its weights: another teacher has other entries.
            precision: a key of PRECISIONS.
            closed: there is no teacher to ask; what is not here is an error.
        """
        self.folder = folder / teacher[:16]
        self.dtype, self.closed = PRECISIONS[precision], closed
        self.suffix = "" if precision == "fp16" else f".{precision}"

    def of(self, frames: Tensor, encode: Callable[[list[int]], Tensor]) -> Tensor:
        """(B*T, C, h, w) fp32 on the device of `frames` (B, T, 3, S, S) uint8. `encode` makes the F16 of the images of these
        numbers (0 ... B*T - 1). The host looks at the images, so a GPU is waited for.

        Raises:
            MissingAnswerError: an image is not here, and there is no teacher.
        """
        keys = [_key(image) for image in frames.flatten(0, 1).cpu()]
        kept = [self._read(key) for key in keys]
        missing = [i for i, f16 in enumerate(kept) if f16 is None]
        if missing:
            self._require_teacher("F16 of an image")
            for i, f16 in zip(missing, encode(missing).to(self.dtype).cpu(), strict=True):
                kept[i] = f16.numpy()
                self._write(keys[i], f16.numpy())
        found = np.stack([f16 for f16 in kept if f16 is not None])
        return torch.from_numpy(found).to(frames.device, non_blocking=True).float()

    def outputs(
        self,
        frames: Tensor,
        told: Sequence[Sequence[Prompts | None]],
        video_of: Tensor,
        every: bool,
        make: Callable[[], Sequence[FrameOutput]],
    ) -> tuple[FrameOutput, ...]:
        """F_M of each frame, as outputs without answers.

        Args:
            frames: (B, T, 3, S, S) uint8, as the teacher sees them.
            told: the prompts of each frame and answer.
            video_of: (O,).
            every: F_M is also wanted of frames that recalled nothing.
            make: tracks the clips, where this is not here.

        Raises:
            MissingAnswerError: this is not here, and there is no teacher.
        """
        said = [tensor for frame in told for prompts in frame if prompts is not None for tensor in prompts[:3]]
        form = [[None if prompts is None else [part is None for part in prompts] for prompts in frame] for frame in told]
        key = _key(frames, video_of, *(tensor for tensor in said if tensor is not None), words=repr((form, every)))
        names = [self._name(key, t) for t in range(frames.shape[1])]
        recalled = self._read(f"{key}-recalled")
        maps: list[NDArray[np.generic] | None] = []
        if recalled is not None:
            maps = [self._read(name) if flag or every else np.zeros(0) for name, flag in zip(names, recalled, strict=True)]
        if recalled is None or any(one is None for one in maps):
            self._require_teacher(f"F_M of a clip of {frames.shape[1]} frames")
            made = make()
            recalled = np.array([output.recalled for output in made])
            maps = [output.f_m.to(self.dtype).cpu().numpy() if output.recalled or every else np.zeros(0) for output in made]
            for name, one in zip(names, maps, strict=True):
                if one is not None and one.size:
                    self._write(name, one)
            self._write(f"{key}-recalled", recalled)
        device = frames.device
        return tuple(
            FrameOutput((), torch.from_numpy(one).to(device).float(), bool(flag))
            for one, flag in zip(maps, recalled, strict=True)
            if one is not None
        )

    def _require_teacher(self, what: str) -> None:
        if self.closed:
            raise MissingAnswerError(
                f"{what} is not in {self.folder}, and teacher_cache_only=true leaves the teacher out. Give the data, the "
                "augmentation, the prompts and the seed of the run that filled the folder, or leave teacher_cache_only out."
            )

    @staticmethod
    def _name(key: str, t: int) -> str:
        return f"{key}-{t:03d}"

    def _write(self, key: str, values: NDArray[np.generic]) -> None:
        file = io.BytesIO()
        np.save(file, values)
        with atomic_path(self._path(key)) as draft:
            draft.write_bytes(file.getvalue() + _checksum(file.getvalue()))  # np.load does not mind what follows the array

    def _read(self, key: str) -> NDArray[np.generic] | None:
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
        return self.folder / key[:2] / f"{key}{self.suffix}.npy"


def _key(*tensors: Tensor, words: str = "") -> str:
    """A digest of what the tensors hold."""
    digest = hashlib.blake2b(words.encode(), digest_size=16)
    for tensor in _on_host(tensors):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _on_host(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    return (tensor.detach().cpu().contiguous() for tensor in tensors)


def _checksum(data: bytes) -> bytes:
    """CRC-32, 4 bytes."""
    return zlib.crc32(data).to_bytes(4, "little")
