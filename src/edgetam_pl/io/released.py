"""Official weights by name: `weights=edgetam`. A file is downloaded where somebody wrote its name and it is not here yet;
nothing else is.

A download must have the sha256 that Hugging Face shows for the file; its size is told before, its sha256 after. Loading is
strict besides: every name and shape has to be the model's.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.environment import cache_folder
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.io.locks import folder_lock

FOLDER = "EDGETAM_WEIGHTS"
"""Variable of the environment that names another folder for the files."""
SECONDS, CHUNK = 30, 1 << 20
"""That a server may be silent; bytes that are read at once."""


class Release(NamedTuple):
    """A released checkpoint."""

    url: str
    sha256: str
    megabytes: int
    licence: str = "Apache-2.0"


_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2"
_EFFICIENTTAM = "https://huggingface.co/yunyangx/efficient-track-anything/resolve/main"

_FILES = f"""
edgetam ed2d4850b8792c239689b043c47046ec239b6e808a3d9b6ae676c803fd8780df 56 https://github.com/facebookresearch/EdgeTAM/raw/main/checkpoints
sam2.1_hiera_tiny 7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69 156 {_SAM2}/092824
sam2.1_hiera_small 6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38 184 {_SAM2}/092824
sam2.1_hiera_base_plus a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5 324 {_SAM2}/092824
sam2.1_hiera_large 2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318 898 {_SAM2}/092824
sam2_hiera_tiny 65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125 156 {_SAM2}/072824
sam2_hiera_small 95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3 184 {_SAM2}/072824
sam2_hiera_base_plus d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071 323 {_SAM2}/072824
sam2_hiera_large 7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b 898 {_SAM2}/072824
efficienttam_s 2b572be30d9e96ee29c8d785fe157c6b079ede7d56fbc8a3671d4120e63c89cd 136 {_EFFICIENTTAM}
efficienttam_s_1 4fd5d1f7ae08a7e15086623bf8b12f0b111b773b15564b43c0a5d451fc1a4267 136 {_EFFICIENTTAM}
efficienttam_s_2 253e490b4a3d56eedd64e4d466155ec538d1289f52abe78b091b14caefd92343 136 {_EFFICIENTTAM}
efficienttam_s_512x512 67b5840012737ed2c94a4cb8787c5c1b27b3a946045d2e602e65ef77230b6085 136 {_EFFICIENTTAM}
efficienttam_ti acbb17b28cca1f860acee09c9ecb6efdb732080dc7a85a07292c31813175fa7d 72 {_EFFICIENTTAM}
efficienttam_ti_1 5294bd68820ee1ee5203d54065d4384a6aa1fb4fc632c147417478fcac9576ea 72 {_EFFICIENTTAM}
efficienttam_ti_2 d2a9ca0a736257ee9bb238d335ba7c794ad853e594cb4f679019ecc0854ee587 72 {_EFFICIENTTAM}
efficienttam_ti_512x512 7d4d652a465f0081391050932f45d8a66768ccc99c8ea393ce8a5927e83f3b9b 72 {_EFFICIENTTAM}
"""
"""Name, sha256, megabytes, folder. The sha256 is that of the file of this name in the authors' repositories on Hugging Face
(facebook/..., yunyangx/...), read in November 2026; for SAM 2.1's two largest and SAM 2's largest, of copies there."""

RELEASES: dict[str, Release] = {
    name: Release(f"{folder}/{name}.pt", sha256, int(megabytes))
    for name, sha256, megabytes, folder in map(str.split, _FILES.split("\n")[1:-1])
}
"""By the name of the model in configs/model."""


def is_name(value: str | Path | None) -> bool:
    """Does this name a release, rather than a file? A file of that name wins."""
    return str(value) in RELEASES and not Path(str(value)).exists()


def place(name: str) -> Path:
    """Where the file of a release belongs."""
    folder = os.environ.get(FOLDER)
    return (Path(folder).expanduser() if folder else cache_folder() / "weights") / f"{name}.pt"


def fetched(name: str) -> Path:
    """The file of a release, downloaded the first time.

    Raises:
        ValueError: it is not here and cannot be downloaded; the message says from where to get it, and where to put it.
    """
    path, release = place(name), RELEASES[name]
    if path.is_file():
        return path
    with folder_lock(path.parent, name=f".{name}.lock"):
        if not path.is_file():  # another process may have fetched it meanwhile
            print(
                f"{name} is not at {path} yet; downloading {release.url} ({release.megabytes} MB, {release.licence}).",
                file=sys.stderr,
                flush=True,
            )
            try:
                _download(release, path)
            except (OSError, http.client.HTTPException) as error:  # no network, no such page, a proxy, a server that stops
                raise ValueError(
                    f"{name} could not be downloaded ({error}). Get {release.url} on a machine that has a network, and put "
                    f"it at {path} ({FOLDER}=FOLDER names another place); or give weights=FILE."
                ) from error
            print(f"{path}: sha256 {release.sha256}", file=sys.stderr, flush=True)
    return path


def _download(release: Release, path: Path) -> None:
    """The file of a release, whole or not at all. Raises OSError or HTTPException."""
    with (
        urllib.request.urlopen(release.url, timeout=SECONDS) as answer,
        atomic_path(path) as draft,
        draft.open("wb") as file,
    ):
        length = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=length or None, unit="B", unit_scale=True, desc=path.name, disable=None) as progress:
            while part := answer.read(CHUNK):
                progress.update(file.write(part))
        if "html" in answer.headers.get("Content-Type", ""):
            raise OSError(f"{urlsplit(release.url).netloc} answered with a web page")
        if length and file.tell() != length:
            raise OSError(f"{file.tell():,} of {length:,} bytes came")
        file.flush()
        if (found := sha256_of(draft)) != release.sha256:
            raise OSError(f"its sha256 is {found}, and that of the released file is {release.sha256}")
