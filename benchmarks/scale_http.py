"""The race of scale.py: the same pictures from a server that is 20 ms away, read by one process each and decoded.

ours       edgetam_pl.data: the order of a training, one range a picture, read ahead; header parsed, JPEG decoded
webdataset `WebDataset(urls).shuffle(...)` through curl, as its documentation has it; tars from front to end
streaming  mosaicml-streaming's StreamingDataset: shards of its own format, fetched whole to a folder, `shuffle=True`

Pictures are COCO's, enlarged to 2250 x 1500 as SA-1B's are, with the masks of benchmarks/loader.py. Each contestant decodes each
JPEG with simplejpeg and parses each header with json. Rounds are interleaved; what a contestant kept on disk is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import simplejpeg

import edgetam_pl  # noqa: F401  (before torchvision)
from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig

DELAY = 0.02


class Late(SimpleHTTPRequestHandler):
    """Files by ranges, each answer `DELAY` seconds late; connections stay open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        time.sleep(DELAY)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size, wanted = path.stat().st_size, self.headers.get("Range")
        first, last = 0, size - 1
        if wanted:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.flush()
        with path.open("rb") as file:
            while first <= last:
                first += os.sendfile(self.connection.fileno(), file.fileno(), first, last + 1 - first)

    def do_HEAD(self) -> None:
        time.sleep(DELAY)
        super().do_HEAD()


def serve(folder: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Late, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()


def decoded(image: bytes, header: bytes | None) -> None:
    """What every contestant does with a sample."""
    simplejpeg.decode_jpeg(image)
    if header is not None:
        json.loads(header)


def ours(place: str, count: int) -> int:
    """A worker without the augmentation: the clips of its steps, with their headers parsed."""
    from edgetam_pl.data.loader import build_loader

    steps = build_loader(
        DataConfig([DataSource(name="pictures", shards=place, kind="image")], AugmentConfig(), workers=0),
        image_size=64,
        num_frames=1,
        batch=1,
        max_objects=64,
        steps=count,
        seed=0,
        rank=0,
        world_size=1,
        train=True,
    ).steps
    for step in range(count):
        for made in steps._drawn(step):
            decoded(made.clip.images[0], None)
    return count


def webdataset(place: str, shards: int) -> int:
    import webdataset as wds

    urls = f"pipe:curl -s -L {place}/shard-{{000000..{shards - 1:06d}}}.tar"
    made = wds.WebDataset(urls, shardshuffle=shards, seed=0).shuffle(100)
    count = 0
    for sample in made:
        decoded(sample["000.jpg"], sample["json"])
        count += 1
    return count


def streaming(place: str, local: Path) -> int:
    from streaming import StreamingDataset

    shutil.rmtree(local, ignore_errors=True)
    count = 0
    for sample in StreamingDataset(remote=place, local=str(local), shuffle=True, batch_size=1):
        decoded(sample["image"], sample["header"])
        count += 1
    return count


def write_mds(tars: Iterator[Path], out: Path) -> None:
    """The same members, in Streaming's format."""
    import tarfile

    from streaming import MDSWriter

    with MDSWriter(out=str(out), columns={"image": "bytes", "header": "bytes"}, size_limit="16mb") as writer:
        for path in tars:
            with tarfile.open(path) as tar:
                held: dict[str, bytes] = {}
                for member in tar:
                    file = tar.extractfile(member)
                    held["header" if member.name.endswith(".json") else "image"] = file.read() if file else b""
                    if len(held) == 2:
                        writer.write(held)
                        held = {}


def race(pictures: int, rounds: int) -> dict[str, dict[str, float]]:
    """Samples a second of each, interleaved."""
    sys.path.insert(0, str(Path(__file__).parent))
    from loader import large_images

    from edgetam_pl.data.build import run as build

    shared = Path(os.environ.get("EDGETAM_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data" / "coco_dev"
    work = Path(tempfile.mkdtemp(prefix="race-"))
    try:
        names = large_images(shared, work / "pictures", min(pictures, 24))
        for number in range(len(names), pictures):  # the same ones again, under other names
            for suffix in ("jpg", "json"):
                (work / "pictures" / f"again{number:05d}.{suffix}").symlink_to(
                    work / "pictures" / f"{names[number % len(names)]}.{suffix}"
                )
        cfg = ShardsConfig(source="sa1b", root=str(work / "pictures"), out=str(work / "shards"), group=20, processes=1)
        build(cfg)
        shards = sorted((work / "shards").glob("*.tar"))
        with subprocess.Popen(
            [sys.executable, __file__, str(work)], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            base = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            contestants: dict[str, Callable[[], int]] = {
                "ours": lambda: ours(f"{base}/shards", pictures),
                "webdataset": lambda: webdataset(f"{base}/shards", len(shards)),
            }
            try:
                write_mds(iter(shards), work / "mds")
                contestants["streaming"] = lambda: streaming(f"{base}/mds", work / "local")
            except ImportError as error:
                print(f"mosaicml-streaming is not installed ({error}); the race is without it.")
            rates: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for name, read in contestants.items():
                    begin = time.perf_counter()
                    count = read()
                    rates[name].append(count / (time.perf_counter() - begin))
            server.terminate()
    finally:
        shutil.rmtree(work)
    found = {n: {"median": statistics.median(r), "least": min(r), "most": max(r)} for n, r in rates.items()}
    print(f"{pictures} pictures, {DELAY * 1e3:.0f} ms away, {rounds} rounds: samples a second, median [least - most]")
    for name, row in found.items():
        print(f"{name:12}{row['median']:8.1f} [{row['least']:.1f} - {row['most']:.1f}]")
    return found


if __name__ == "__main__":
    serve(sys.argv[1])
