"""The race of scale.py: the same pictures from a server that is 20 ms away, read by one process each and decoded.

ours       edgetam_pl.data: the order of a training, one range a picture, read ahead; header parsed, JPEG decoded
webdataset `WebDataset(urls).shuffle(...)` through curl, as its documentation has it; tars from front to end
streaming  mosaicml-streaming's StreamingDataset: shards of its own format, fetched whole to a folder, `shuffle=True`

Pictures are COCO's with their masks, several times over. Each contestant decodes JPEGs with simplejpeg and parses headers
with json; ours checks its bytes' CRC-32 and its header, too. Rounds are interleaved after one that does not count (imports);
what a contestant kept on disk is removed. Processor time (with that of curl) stands beside, since a shared machine disturbs
the other.
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
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn
from typing import cast

import simplejpeg

import edgetam_pl  # noqa: F401  (before torchvision)
from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig

DELAY = 0.02


class Late(StreamRequestHandler):
    """Files by ranges, each answer `DELAY` seconds late; connections stay open. As little work as can be: the server of a
    store has processors of its own, this one takes them from the contestants."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while first := self.rfile.readline():
            method, target, _ = first.decode().split(" ")
            wanted = ""
            while (line := self.rfile.readline()) not in {b"\r\n", b""}:
                if line[:6].lower() == b"range:":
                    wanted = line[6:].decode().strip().removeprefix("bytes=")
            time.sleep(DELAY)
            self.answer(method, cast("Server", self.server).folder / target.lstrip("/"), wanted)

    def answer(self, method: str, path: Path, wanted: str) -> None:
        try:
            file = path.open("rb")
        except OSError:
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            begin, end, status = 0, size, "200 OK"
            if wanted:
                least, most = wanted.split("-")
                begin, end = int(least), min(int(most) + 1, size)
                status = f"206 Partial Content\r\nContent-Range: bytes {begin}-{end - 1}/{size}"
            self.request.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {end - begin}\r\n\r\n".encode())
            while method == "GET" and begin < end:
                begin += os.sendfile(self.request.fileno(), file.fileno(), begin, end - begin)


class Server(ThreadingMixIn, TCPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), Late)


def serve(folder: str) -> None:
    server = Server(Path(folder))
    print(server.server_address[1], flush=True)
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
    from streaming.base.storage import download

    class Http(download.CloudDownloader):
        """It has none for http; this one fetches whole files, as its others do."""

        @staticmethod
        def _client_identifier() -> str:
            return "http"

        def clean_up(self) -> None:
            pass

        def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
            urllib.request.urlretrieve(remote, local)

    download.DOWNLOADER_MAPPINGS["http"] = Http
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


def link_pictures(source: Path, out: Path, count: int) -> None:
    """`count` pictures in SA-1B's layout: those that have masks, again under other names."""
    out.mkdir()
    jsons = [p for p in sorted((source / "sa1b_json").glob("*.json")) if json.loads(p.read_text())["annotations"]]
    for number in range(count):
        path = jsons[number % len(jsons)]
        (out / f"sa_{number:06d}.json").symlink_to(path)
        (out / f"sa_{number:06d}.jpg").symlink_to(source / "images" / f"{path.stem}.jpg")


def spent() -> float:
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def race(pictures: int, rounds: int) -> dict[str, dict[str, float]]:
    """Samples a second of each, interleaved."""
    from edgetam_pl.data.build import run as build

    shared = Path(os.environ.get("EDGETAM_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data" / "coco_dev"
    work = Path(tempfile.mkdtemp(prefix="race-"))
    try:
        link_pictures(shared, work / "pictures", pictures)
        root, out = str(work / "pictures"), str(work / "shards")
        build(ShardsConfig(source="sa1b", root=root, out=out, group=50, processes=1, check=False))
        shards = sorted((work / "shards").glob("*.tar"))
        server = subprocess.Popen([sys.executable, __file__, str(work)], stdout=subprocess.PIPE, text=True)
        try:
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
            costs: dict[str, list[float]] = {name: [] for name in contestants}
            for number in range(rounds + 1):
                for name, read in contestants.items():
                    begin, cpu = time.perf_counter(), spent()
                    count = read()
                    rate, cost = count / (time.perf_counter() - begin), (spent() - cpu) / count
                    if number:
                        rates[name].append(rate)
                        costs[name].append(cost)
                    print(f"{name}: {rate:.1f} a second, {1e3 * cost:.1f} ms", flush=True)
        finally:
            server.kill()
    finally:
        shutil.rmtree(work)
    found = {
        name: {"rate": statistics.median(r), "least": min(r), "most": max(r), "cpu": statistics.median(costs[name])}
        for name, r in rates.items()
    }
    print(f"{pictures} pictures, {DELAY * 1e3:.0f} ms away, {rounds} rounds: samples a second, [least - most]; processor ms")
    for name, row in found.items():
        print(f"{name:12}{row['rate']:8.1f} [{row['least']:.1f} - {row['most']:.1f}]{1e3 * row['cpu']:8.1f}")
    return found


if __name__ == "__main__":
    serve(sys.argv[1])
