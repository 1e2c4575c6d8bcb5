"""Shards in a Google bucket: built there, continued, read, verified. A real client, a small server of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec.config
import pytest
from shard_sets import build, loader

from edgetam_pl.data import storage
from edgetam_pl.data.shards import ShardSet, load_index
from edgetam_pl.data.verify import verify

# read on import: from 2026 on gcsfs asks Google over gRPC of which kind a bucket is, and waits a minute for an answer
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
pytest.importorskip("gcsfs", reason="pip install 'edgetam-pl[gs]'")

SET = {"clips": 12, "frames": 4, "size": 32, "objects": 2, "group": 2}


class Bucket(BaseHTTPRequestHandler):
    """As much of Google's JSON interface as files of shards need: upload, list, look up, read a range."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *args: object) -> None:
        pass

    def send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def item(self, name: str) -> dict[str, str]:
        data = self.objects[name]
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return {"kind": "storage#object", "name": name, "bucket": "b", "size": str(len(data)), "md5Hash": md5}

    def do_POST(self) -> None:
        """A multipart upload: what it is called, then its bytes."""
        _, said, data = self.rfile.read(int(self.headers["Content-Length"])).split(b"--==0==", 2)
        name = json.loads(said.partition(b"\n\n")[2])["name"]
        self.objects[name] = data.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        self.send(json.dumps(self.item(name)).encode())

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        name = unquote(parts.path.partition("/b/b/o/")[2])
        if not name:
            prefix = asked.get("prefix", "")
            found = [self.item(each) for each in sorted(self.objects) if each.startswith(prefix)]
            self.send(json.dumps({"kind": "storage#objects", "items": found}).encode())
        elif name not in self.objects:
            self.send(b'{"error": {"code": 404, "message": "No such object"}}', 404)
        elif asked.get("alt") != "media":
            self.send(json.dumps(self.item(name)).encode())
        else:
            data = self.objects[name]
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.send(data[int(first) : int(last) + 1 if last else None], 206 if "Range" in self.headers else 200)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Bucket, "objects", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "token": "anon"}
    for protocol in ("gs", "gcs"):
        monkeypatch.setitem(fsspec.config.conf, protocol, here)
    storage._given_up.clear()
    load_index.cache_clear()
    yield "gs://b/set"
    server.shutdown()
    server.server_close()


def test_shards_built_in_a_google_bucket_are_those_of_a_folder(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = build(tmp_path / "local", **SET)
    build(bucket, **SET)  # type: ignore[arg-type]
    there = {name.removeprefix("set/"): data for name, data in Bucket.objects.items()}
    assert there == {path.name: path.read_bytes() for path in local.iterdir()}
    assert not [fault for verdict in verify(bucket) for fault in verdict.faults]
    assert ShardSet(bucket, name="x").index is not None
    assert [b.keys for b in loader([bucket], steps=12)] == [b.keys for b in loader([str(local)], steps=12)]
    # cut off between a tar and its index: that shard is built again
    for name in ("manifest.json", "index.bin", "shard-000003.index.json"):
        del Bucket.objects[f"set/{name}"]
    build(bucket, **SET)  # type: ignore[arg-type]
    assert {name.removeprefix("set/"): data for name, data in Bucket.objects.items()} == there
    capsys.readouterr()
    build(bucket, **SET)  # type: ignore[arg-type]
    assert "finished before" in capsys.readouterr().out
