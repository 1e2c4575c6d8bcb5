"""Official weights by name: `weights=edgetam`. A file is downloaded where somebody wrote its name and it is not here yet;
nothing else is.

No sha256 or size of these files is recorded here, because none was at hand to check against. A download is compared with the
length that the server announces, its sha256 is printed, and loading is strict: every name and shape has to be the model's.
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
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.io.locks import folder_lock

FOLDER = "EDGETAM_WEIGHTS"
"""Variable of the environment that names another folder for the files."""
SECONDS, CHUNK = 30, 1 << 20
"""That a server may be silent; bytes that are read at once."""


class Release(NamedTuple):
    """A released checkpoint."""

    url: str
    licence: str = "Apache-2.0"


_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2"
_EFFICIENTTAM = "https://huggingface.co/yunyangx/efficient-track-anything/resolve/main"
_SIZES = ("tiny", "small", "base_plus", "large")

RELEASES: dict[str, Release] = {
    "edgetam": Release("https://github.com/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt"),
    **{f"sam2.1_hiera_{size}": Release(f"{_SAM2}/092824/sam2.1_hiera_{size}.pt") for size in _SIZES},
    **{f"sam2_hiera_{size}": Release(f"{_SAM2}/072824/sam2_hiera_{size}.pt") for size in _SIZES},
    **{
        f"efficienttam_{size}": Release(f"{_EFFICIENTTAM}/efficienttam_{size}.pt")
        for size in ("s", "s_1", "s_2", "s_512x512", "ti", "ti_1", "ti_2", "ti_512x512")
    },
}
"""By the name of the model in configs/model."""


def is_name(value: str | Path | None) -> bool:
    """Does this name a release, rather than a file? A file of that name wins."""
    return str(value) in RELEASES and not Path(str(value)).exists()


def place(name: str) -> Path:
    """Where the file of a release belongs."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get(FOLDER) or f"{cache}/edgetam-pl/weights"
    return Path(folder).expanduser() / f"{name}.pt"


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
                f"{name} is not at {path} yet; downloading {release.url} ({release.licence}).", file=sys.stderr, flush=True
            )
            try:
                _download(release.url, path)
            except (OSError, http.client.HTTPException) as error:  # no network, no such page, a proxy, a server that stops
                raise ValueError(
                    f"{name} could not be downloaded ({error}). Get {release.url} on a machine that has a network, and put "
                    f"it at {path} ({FOLDER}=FOLDER names another place); or give weights=FILE."
                ) from error
            print(f"{path}: sha256 {sha256_of(path)}", file=sys.stderr, flush=True)
    return path


def _download(url: str, path: Path) -> None:
    """The file at `url`, whole or not at all. Raises OSError or HTTPException."""
    with urllib.request.urlopen(url, timeout=SECONDS) as answer, atomic_path(path) as draft, draft.open("wb") as file:
        length = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=length or None, unit="B", unit_scale=True, desc=path.name, disable=None) as progress:
            while part := answer.read(CHUNK):
                progress.update(file.write(part))
        if "html" in answer.headers.get("Content-Type", ""):
            raise OSError(f"{urlsplit(url).netloc} answered with a web page")
        if length and file.tell() != length:
            raise OSError(f"{file.tell():,} of {length:,} bytes came")
