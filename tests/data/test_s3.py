"""Shards in a bucket: built there, cut in the middle, continued, read, verified. A real client, a server of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from shard_sets import build, loader

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import storage
from edgetam_pl.data.build import run
from edgetam_pl.data.index_file import INDEX_FILE
from edgetam_pl.data.shards import ShardSet, load_index
from edgetam_pl.data.verify import verify

pytest.importorskip("s3fs", reason="pip install 'edgetam-pl[s3]'")
pytest.importorskip("moto.server", reason="pip install 'moto[s3,server]'")

SET = {"clips": 12, "frames": 4, "size": 32, "objects": 2, "group": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 of this machine, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for key, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    name = request.node.name.replace("_", "-")[:40]
    fs.mkdir(name)
    storage._given_up.clear()
    load_index.cache_clear()
    return f"s3://{name}/set"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("local"), **SET)


def objects(place: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    return {path.rsplit("/", 1)[-1]: fs.cat_file(path) for path in fs.ls(place.removeprefix("s3://"), detail=False)}


def test_shards_built_in_a_bucket_are_those_of_a_folder(
    bucket: str, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(bucket, **SET)  # type: ignore[arg-type]
    there = objects(bucket)
    assert sorted(there) == sorted(path.name for path in local.iterdir())
    assert all(data == (local / name).read_bytes() for name, data in there.items())
    assert not [fault for verdict in verify(bucket) for fault in verdict.faults]
    assert [b.keys for b in loader([bucket], steps=12)] == [b.keys for b in loader([str(local)], steps=12)]
    assert ShardSet(bucket, name="x").index is not None
    capsys.readouterr()
    build(bucket, **SET)  # type: ignore[arg-type]
    assert f"{bucket}: finished before" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds shards of other settings"):
        run(ShardsConfig(source="toy", out=bucket, processes=1, **(SET | {"clips": 13})))


def test_a_build_that_is_killed_in_the_middle_continues(bucket: str, local: Path) -> None:
    program = f"""if True:
        import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
        import shard_sets
        from edgetam_pl.data import storage
        put = storage.put
        def slowly(file, address):
            put(file, address)
            print(address, flush=True)
            sys.stdin.readline()
        storage.put = slowly
        shard_sets.build({bucket!r}, **{SET})
    """
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:  # ended between the third tar and its index
        if line.rstrip().endswith("shard-000002.tar"):
            break
        process.stdin.write("\n")
        process.stdin.flush()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = objects(bucket)
    assert "manifest.json" not in before
    assert sum(name.endswith(".index.json") for name in before) == 2
    changed = fsspec.filesystem("s3", skip_instance_cache=True).info(f"{bucket}/shard-000000.tar")["LastModified"]
    build(bucket, **SET)  # type: ignore[arg-type]
    assert all(data == (local / name).read_bytes() for name, data in objects(bucket).items())
    assert INDEX_FILE in objects(bucket)
    now = fsspec.filesystem("s3", skip_instance_cache=True).info(f"{bucket}/shard-000000.tar")["LastModified"]
    assert now == changed  # what was finished is not built again


def test_a_bucket_that_is_not_there_is_named_in_one_sentence(bucket: str) -> None:
    with pytest.raises(ValueError, match=r"s3://no-such-bucket/set/settings\.json: .* It cannot be written"):
        build("s3://no-such-bucket/set", **SET)  # type: ignore[arg-type]


def test_gs_and_any_other_file_system_take_the_same_way() -> None:
    """Nothing of the builder knows of S3: a bucket in memory stands for gs://, whose servers are not at hand."""
    build("memory://cloud/set", **SET)  # type: ignore[arg-type]
    assert len(ShardSet("memory://cloud/set", name="x")) == 12
    assert not [fault for verdict in verify("memory://cloud/set") for fault in verdict.faults]
