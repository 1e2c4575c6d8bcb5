"""The builder: the same shards for the same settings, whatever interrupts it, and never half a file."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset
from PIL import Image

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data import windows, writer
from edgetam_pl.data.build import run
from edgetam_pl.data.sample import Sample
from edgetam_pl.data.shards import ShardSet, load_index, read_manifest
from edgetam_pl.data.tars import read_members
from edgetam_pl.data.writer import DiskFullError
from edgetam_pl.datasets.layout import AnnotatedFrame
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause


def toy(out: Path, **changes: object) -> ShardsConfig:
    values: dict[str, object] = {"clips": 7, "frames": 5, "size": 32, "objects": 2, "group": 3, "processes": 1}
    return ShardsConfig(source="toy", out=str(out), **(values | changes))  # type: ignore[arg-type]


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("shard-*"))}


def samples(out: Path) -> list[Sample]:
    """Every sample of a folder, decoded."""
    found = []
    for address in ShardSet(str(out), name="x").addresses:
        for entry in load_index(address).entries:
            members = read_members(address, entry, [member.suffix for member in entry.members])
            found.append(schema.decode(members))
    return found


def test_plain_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    """Built shards are ordinary WebDatasets: another program needs neither our index nor our reader."""
    run(toy(tmp_path))
    tars = str(tmp_path / "shard-{000000..000002}.tar")
    stream = webdataset.WebDataset(tars, shardshuffle=False)
    members = [{suffix: data for suffix, data in raw.items() if not suffix.startswith("__")} for raw in stream]
    assert [schema.decode(found) for found in members] == samples(tmp_path)
    assert len(members) == 7
    decoded = next(iter(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")))
    assert decoded["000.jpg"].shape == (32, 32, 3)
    assert decoded["json"]["frames"] == [0, 1, 2, 3, 4]


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    assert run(toy(tmp_path)) == 0
    manifest = read_manifest(str(tmp_path))
    assert (manifest.samples, manifest.videos, manifest.frames, manifest.kind) == (7, 7, 35, "video")
    assert [record.samples for record in manifest.shards] == [3, 3, 1]
    for record in manifest.shards:
        data = (tmp_path / record.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record.bytes, record.sha256)
    assert manifest.bytes == sum(record.bytes for record in manifest.shards)
    assert manifest.settings["seed"] == 0
    assert not list(tmp_path.glob(".*"))


def test_progress_shows_rate_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(toy(tmp_path, clips=40))
    shown = capsys.readouterr().err
    assert "videos/s]" in shown
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", shown)  # so far < to go


def test_memory_does_not_grow_with_the_length_of_a_video() -> None:
    """A frame is encoded before the next one is read, and a window's bytes are all that is held."""

    def film(length: int) -> Iterator[AnnotatedFrame]:
        for number in range(length):
            yield AnnotatedFrame(number, np.full((256, 256, 3), number % 256, np.uint8), {"1": np.ones((256, 256), bool)})

    peaks = []
    for length in (80, 400):
        tracemalloc.start()
        windows_seen = sum(1 for _ in windows.samples(ShardsConfig(), "film", "video", film(length), lambda error: None))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert windows_seen == (length - 32) // 16 + 1
    assert peaks[1] < 1.2 * peaks[0]


def test_masks_in_the_shard_are_the_generated_ones(tmp_path: Path) -> None:
    run(toy(tmp_path))
    for sample in samples(tmp_path):
        frames, masks = toy_clip(int(sample.header.video.removeprefix("toy-")), 5, 32, 2)
        for o, name in enumerate(sample.header.objects):
            for t, counts in enumerate(sample.header.masks[o]):
                expected = masks[t, int(name) - 1]
                assert (counts is None) == (not expected.any())
                assert counts is None or np.array_equal(rle.decode(counts, (32, 32)), expected)
        decoded = simplejpeg.decode_jpeg(sample.images[2]).astype(int)
        assert np.abs(decoded - frames[2]).mean() < 12


def test_the_same_settings_make_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(toy(tmp_path / name, seed=seed))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_a_finished_build_does_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(toy(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run(toy(tmp_path)) == 0
    assert "finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_interrupted_build_continues_and_never_rewrites_a_finished_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy(tmp_path / "whole"))
    out, calls = tmp_path / "parts", 0
    store = windows._store

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 22:  # in the second shard
            raise KeyboardInterrupt
        return store(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(toy(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "names.txt",
        "settings.json",
        "shard-000000.index.json",
        "shard-000000.tar",
    ]
    finished = (out / "shard-000000.tar").stat().st_mtime_ns
    monkeypatch.setattr(windows, "_store", store)
    run(toy(out))
    assert (out / "shard-000000.tar").stat().st_mtime_ns == finished
    assert digests(out) == digests(tmp_path / "whole")


def test_a_tar_without_its_index_is_not_finished(tmp_path: Path) -> None:
    run(toy(tmp_path))
    before = digests(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-000001.index.json").unlink()
    (tmp_path / "shard-000002.tar").write_bytes(b"short")
    run(toy(tmp_path))
    assert digests(tmp_path) == before


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    run(toy(tmp_path))
    with pytest.raises(ValueError, match=r"clips 7 there, 8 now"):
        run(toy(tmp_path, clips=8))
    (tmp_path / "manifest.json").unlink()  # an unfinished build is protected, too
    with pytest.raises(ValueError, match=r"seed 0 there, 1 now"):
        run(toy(tmp_path, seed=1))


def test_a_full_disk_leaves_finished_shards_whole_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writer._Hashing.write
    room = 60_000

    def full(self: writer._Hashing, data: bytes) -> int:
        nonlocal room
        room -= 0 if self.discard else len(data)
        if room < 0 and not self.discard:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(writer._Hashing, "write", full)
    with pytest.raises(DiskFullError, match=r"is full .*free some space.*run the same command again"):
        run(toy(tmp_path))
    assert not list(tmp_path.glob(".*.partial"))
    assert not (tmp_path / "manifest.json").exists()
    done = list(tmp_path.glob("*.tar"))
    assert done
    for path in done:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == load_index(str(path)).sha256
    monkeypatch.setattr(writer._Hashing, "write", write)
    run(toy(tmp_path))
    assert len(samples(tmp_path)) == 7


def test_windows_overlap_and_the_last_one_ends_with_the_video(tmp_path: Path) -> None:
    run(toy(tmp_path, clips=1, frames=21, window=8, stride=4))
    found = [sample.header.frames for sample in samples(tmp_path)]
    assert [(frames[0], frames[-1]) for frames in found] == [(0, 7), (4, 11), (8, 15), (12, 19), (13, 20)]
    for start in range(21 - 4 + 1):  # every stretch of four frames lies in one window
        assert any(set(range(start, start + 4)) <= set(frames) for frames in found)


@pytest.mark.parametrize(("frames", "spans"), [(5, [(0, 4)]), (8, [(0, 7)]), (9, [(0, 7), (1, 8)])])
def test_a_short_video_is_one_window(tmp_path: Path, frames: int, spans: list[tuple[int, int]]) -> None:
    run(toy(tmp_path, clips=1, frames=frames, window=8, stride=4))
    assert [(s.header.frames[0], s.header.frames[-1]) for s in samples(tmp_path)] == spans


def folder(root: Path, *, quality: int = 90) -> None:
    """images/ and masks/ of four images of 60 x 90."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for seed in range(4):
        frames, masks = toy_clip(seed, 1, (60, 90), 2)
        Image.fromarray(frames[0]).save(root / "images" / f"{seed}.jpg", quality=quality)
        labels = (masks[0, 0] + 2 * masks[0, 1]).astype(np.uint8)
        picture = Image.fromarray(labels, mode="P")
        picture.putpalette(list(range(256)) * 3)
        picture.save(root / "masks" / f"{seed}.png")


def images(root: Path, out: Path, **changes: object) -> ShardsConfig:
    return ShardsConfig(source="images", root=str(root), out=str(out), processes=1, **changes)  # type: ignore[arg-type]


def test_jpeg_files_are_kept_byte_by_byte(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    run(images(tmp_path / "in", tmp_path / "out"))
    kept = {sample.header.video: sample.images[0] for sample in samples(tmp_path / "out")}
    assert kept == {str(seed): (tmp_path / "in" / "images" / f"{seed}.jpg").read_bytes() for seed in range(4)}


def test_shrinking_keeps_shape_masks_and_records_the_original_size(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    run(images(tmp_path / "in", tmp_path / "out", short_side=30, quality=80, chroma="444"))
    for sample in samples(tmp_path / "out"):
        assert (sample.header.size, sample.header.original_size) == ((30, 45), (60, 90))
        assert simplejpeg.decode_jpeg_header(sample.images[0])[3] == "444"
        masks = toy_clip(int(sample.header.video), 1, (60, 90), 2)[1][0]
        for name, track in zip(sample.header.objects, sample.header.masks):
            assert track[0] is not None
            assert np.array_equal(rle.decode(track[0], (30, 45)), masks[int(name) - 1][1::2, 1::2])
    assert read_manifest(str(tmp_path / "out")).settings["short_side"] == 30


def test_bad_files_are_left_out_and_counted_by_cause(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    pictures = tmp_path / "in" / "images"
    (pictures / "0.jpg").write_bytes((pictures / "0.jpg").read_bytes()[:200])
    (pictures / "1.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((60, 91, 3), np.uint8)).save(pictures / "2.jpg")
    run(images(tmp_path / "in", tmp_path / "out"))
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.samples == 1
    assert manifest.skipped == {"undecodable image": 1, "member empty": 1, "mask size differs": 1}
    notes = load_index(str(tmp_path / "out" / "shard-000000.tar")).notes
    assert any("2.jpg is 60 x 91 pixels, its mask (60, 90)" in note for note in notes)


def test_nothing_usable_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    for path in (tmp_path / "in" / "images").iterdir():
        path.write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(ValueError, match=r"Not one sample .*undecodable image \(4\)"):
        run(images(tmp_path / "in", tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_png_and_unusual_jpeg_frames_become_jpeg(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    pictures = tmp_path / "in" / "images"
    frame = toy_clip(0, 1, (60, 90), 2)[0][0]
    (pictures / "0.jpg").unlink()
    Image.fromarray(frame).save(pictures / "0.png")
    Image.fromarray(toy_clip(1, 1, (60, 90), 2)[0][0]).convert("CMYK").save(pictures / "1.jpg", quality=95)
    run(images(tmp_path / "in", tmp_path / "out"))
    stored = {sample.header.video: sample.images[0] for sample in samples(tmp_path / "out")}
    assert len(stored) == 4
    assert np.abs(simplejpeg.decode_jpeg(stored["0"]).astype(int) - frame).mean() < 10
    assert simplejpeg.decode_jpeg_header(stored["1"])[2] == "YCbCr"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"stride": 9, "window": 8}, "stride=9"),
        ({"quality": 0}, "quality=0"),
        ({"chroma": "411"}, "use 420, 422 or 444"),
        ({"engine": "ray"}, "use local or slurm"),
        ({"max_area": 2.0}, "share between 0 and 1"),
        ({"clips": 0}, "toy makes 1 to 50000 clips"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(toy(tmp_path, **changes))


def test_shards_of_nothing_and_onto_a_web_server_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Shards of what\? Give source=coco\|davis\|.* and root=FOLDER, or recipe=NAME"):
        run(ShardsConfig())
    with pytest.raises(ValueError, match=r"out=https://host/x: nothing can be written there; give a folder, or s3://"):
        run(dataclasses.replace(toy(tmp_path), out="https://host/x"))
    assert not list(tmp_path.iterdir())
    run(dataclasses.replace(toy(tmp_path), out=""))
    assert read_manifest("runs/shards/toy").samples == 7


def test_a_limit_takes_so_many_of_the_shuffled_videos(tmp_path: Path) -> None:
    run(toy(tmp_path, limit=4))
    assert read_manifest(str(tmp_path)).videos == 4


def test_a_manifest_or_index_of_another_version_is_refused(tmp_path: Path) -> None:
    run(toy(tmp_path))
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"version": 9}))
    with pytest.raises(ValueError, match="not a manifest of version 1"):
        read_manifest(str(tmp_path))
    index = tmp_path / "shard-000000.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 9}))
    load_index.cache_clear()
    with pytest.raises(BadSampleError) as caught:
        load_index(str(tmp_path / "shard-000000.tar"))
    assert caught.value.cause is Cause.HEADER
