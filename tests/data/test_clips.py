"""Clips are drawn as SAM 2 draws them: a video, then a start, each as likely as any other; objects of its first frame."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_sets import contents

from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data.build import run
from edgetam_pl.data.clips import ChosenClip, Video, choose
from edgetam_pl.data.index import Manifest
from edgetam_pl.data.loader import ShardLoader, build_loader
from edgetam_pl.data.sample import Header
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.types import VideoBatch


def header(tracks: list[str], first: int = 0, names: str = "") -> Header:
    """Tracks as strings: x where the object is seen; frame numbers from `first` on."""
    count = len(tracks[0])
    masks = tuple(tuple("x" if c == "x" else None for c in track) for track in tracks)
    objects = tuple(names or map(str, range(len(tracks))))
    return Header(f"k-{first}", "s", "v", "video", tuple(range(first, first + count)), (4, 4), (4, 4), objects, masks)


def cut(tracks: list[str], *, window: int, stride: int) -> Video:
    """A video as the shards hold it: windows that overlap, the last one flush with the end."""
    count = len(tracks[0])
    begins = [*range(0, max(count - window, 0), stride), max(count - window, 0)]
    headers = [header([track[b : b + window] for track in tracks], b) for b in begins]
    return Video("v", [(b, one.num_frames) for b, one in zip(begins, headers)], headers.__getitem__)


def one(
    video: Video,
    seed: int = 0,
    *,
    frames: int,
    objects: int = 1,
    reverse: float = 0.0,
    train: bool = True,
    max_step: int = 1,
) -> ChosenClip:
    rng = np.random.default_rng(seed)
    return choose(video, rng, num_frames=frames, max_objects=objects, reverse=reverse, train=train, max_step=max_step)


def starts(video: Video, draws: int, *, frames: int) -> Counter[int]:
    return Counter(one(video, seed, frames=frames).header.frames[0] for seed in range(draws))


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_every_start_of_a_long_video_is_as_likely_as_any_other(frames: int) -> None:
    """84 frames in windows of 32, 16 apart. Drawn by window first, starts would be 0.62 to 1.85 times as likely as they
    should be for 8 frames, and 5 of 53 possible for 32."""
    possible, each = 84 - frames + 1, 50
    drawn = starts(cut(["x" * 84], window=32, stride=16), possible * each, frames=frames)
    assert sorted(drawn) == list(range(possible))
    chi_square = sum((count - each) ** 2 / each for count in drawn.values())
    assert 0.6 < chi_square / (possible - 1) < 1.5  # 1 is chance alone; window first gives more than 3
    assert min(drawn.values()) / each > 0.4
    assert max(drawn.values()) / each < 1.6


def test_a_clip_of_larger_steps_has_frames_equally_far_apart_from_all_of_its_video() -> None:
    video = cut(["x" * 20], window=6, stride=3)
    drawn = Counter[int]()
    for seed in range(400):
        clip = one(video, seed, frames=4, max_step=9, reverse=0.5)
        frames = clip.header.frames
        steps = set(np.diff(frames).tolist())
        assert len(steps) == 1
        drawn.update(steps)
        # what is read are the frames that the header speaks of
        assert [video.header(window).frames[t] for window, t in clip.places] == list(frames)
        assert all(mask is not None for mask in clip.header.masks[0])
    # four frames 6 apart are all that 20 frames hold; each step is as likely as any other
    assert sorted(drawn) == [1, 2, 3, 4, 5, 6]
    assert 40 < min(drawn.values()) <= max(drawn.values()) < 95


def test_steps_are_for_training_and_for_videos_that_are_long_enough() -> None:
    video = cut(["x" * 5], window=5, stride=5)
    assert one(video, 1, frames=5, max_step=3).header.frames == (0, 1, 2, 3, 4)
    assert one(video, 1, frames=2, max_step=3, train=False).header.frames == (0, 1)
    assert one(video, 1, frames=1, max_step=3).header.num_frames == 1
    with pytest.raises(BadSampleError, match="has 5 frames; 6 are needed"):
        one(video, 1, frames=6, max_step=3)


@pytest.mark.parametrize("seed", range(5))
def test_consecutive_frames_are_drawn_as_before_steps_were_known(seed: int) -> None:
    video = cut(["x" * 20], window=6, stride=3)
    ours, rng = one(video, seed, frames=4, max_step=1), np.random.default_rng(seed)
    rng.random()  # backwards or not
    assert ours.header.frames[0] == rng.permutation(17)[0]


def test_a_clip_goes_on_in_the_next_window() -> None:
    video = cut(["xxxxxxxxxxxx", "...xxxxxx..."], window=6, stride=3)  # windows begin at 0, 3 and 6
    for seed in range(40):
        clip = one(video, seed, frames=9, objects=2)
        first = clip.header.frames[0]
        assert clip.header.frames == tuple(range(first, first + 9))
        read = [video.header(window).frames[t] for window, t in clip.places]
        assert read == list(clip.header.frames)
        assert len({window for window, _ in clip.places}) == 2  # the fewest that have them
        assert [c is not None for c in clip.header.masks[1]] == [3 <= t < 9 for t in clip.header.frames]


def test_objects_of_a_later_window_have_no_mask_before_it() -> None:
    windows = [header(["xxxx"], 0, names="a"), header(["xxxx", "xxxx"], 2, names="ba")]
    clip = one(Video("v", [(0, 4), (2, 4)], windows.__getitem__), frames=6, objects=2, train=False)
    assert clip.header.objects == ("a", "b")
    assert clip.header.masks == (("x",) * 6, (None,) * 4 + ("x",) * 2)
    assert clip.selection.objects == (0,)


def test_no_clip_spans_a_gap() -> None:
    """Windows without an object are not stored."""
    windows = [header(["xxxx"], 0), header(["xxxxx"], 10)]
    video = Video("v", [(0, 4), (10, 5)], windows.__getitem__)
    assert sorted(starts(video, 60, frames=4)) == [0, 10, 11]


def test_the_first_frame_of_a_clip_always_shows_a_chosen_object() -> None:
    video = cut(["...xx.....", "......x..."], window=10, stride=10)
    found = set()
    for seed in range(200):
        clip = one(video, seed, frames=4, objects=3, reverse=0.5)
        first, last = (clip.header.frames[clip.selection.frames[t]] for t in (0, -1))
        assert clip.selection.objects
        assert all(clip.header.masks[o][clip.selection.frames[0]] for o in clip.selection.objects)
        assert np.abs(np.diff(clip.selection.frames)).tolist() == [1, 1, 1]
        found.add((first, first > last))
    assert found == {(3, False), (4, False), (6, False), (3, True), (4, True), (6, True)}


def test_objects_that_appear_later_are_never_chosen_and_the_rest_are_drawn_evenly() -> None:
    video = cut(["xxxx", "xxxx", "xxxx", ".xxx"], window=4, stride=4)
    counts = np.zeros(4)
    for seed in range(600):
        chosen = one(video, seed, frames=4, objects=2).selection.objects
        assert len(chosen) == 2
        counts[list(chosen)] += 1
    assert counts[3] == 0
    assert (np.abs(counts[:3] - 400) < 60).all()


def test_validation_takes_the_first_stretch_and_the_first_objects() -> None:
    clip = one(cut([".xxxxx", ".xxxxx", "..xxxx"], window=6, stride=6), frames=3, reverse=1.0, train=False)
    assert clip.header.frames == (1, 2, 3)
    assert clip.selection.objects == (0,)
    assert clip.selection.label(clip.header) == "k-0@1"


def test_a_video_too_short_or_without_objects_is_named() -> None:
    for tracks, frames, cause in ((["xx"], 3, Cause.TOO_SHORT), (["..x"], 2, Cause.NO_OBJECT)):
        with pytest.raises(BadSampleError) as caught:
            one(cut(tracks, window=9, stride=9), frames=frames)
        assert caught.value.cause is cause


# ---------------------------------------------------------------------- through shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 clips of 21 frames in windows of 8, 4 apart, two clips a shard."""
    out = tmp_path_factory.mktemp("long")
    run(
        ShardsConfig(
            source="toy", out=str(out), clips=4, frames=21, size=32, objects=1, window=8, stride=4, group=2, processes=1
        )
    )
    return out


def loader(shards: Path | str, *, steps: int, batch: int = 1, world: int = 1, rank: int = 0) -> ShardLoader:
    still = AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reverse=0)
    return build_loader(
        DataConfig([DataSource(name="long", shards=str(shards))], still, workers=0),
        image_size=32,
        num_frames=8,
        batch=batch,
        max_objects=1,
        steps=steps,
        seed=1,
        rank=rank,
        world_size=world,
        train=True,
    )


def video_of(key: str) -> str:
    return key.rpartition("-")[0]


def test_each_video_is_drawn_once_an_epoch_however_many_windows_it_has(shards: Path) -> None:
    keys = [key for batch in loader(shards, steps=120) for key in batch.keys]
    assert set(Counter(map(video_of, keys)).values()) == {30}
    assert len({video_of(key) for key in keys[:4]}) == 4
    seen = {(video_of(key), key.partition("@")[2]) for key in keys}
    assert len(seen) > 45  # of 4 x 14 starts; windows alone would give 4 x 5


def test_a_clip_over_two_windows_has_the_frames_that_it_names(shards: Path) -> None:
    stored = {  # (video, frame number): JPEG
        (video_of(key), number): members[schema.image_suffix(t)]
        for tar in sorted(shards.glob("*.tar"))
        for key, members in contents(tar).items()
        for t, number in enumerate(schema.decode_header(members["json"]).frames)
    }
    for batch in loader(shards, steps=12):
        key, _, first = batch.keys[0].partition("@")
        for t in range(8):
            expected = schema.decode_jpeg(stored[video_of(key), int(first) + t])
            assert torch.equal(batch.frames[0, t], torch.from_numpy(expected).permute(2, 0, 1))


def test_more_clips_than_videos_in_one_step_are_other_starts(shards: Path) -> None:
    """4 videos, 2 ranks of 3 clips: a video comes twice in a step, at places of its own."""
    steps = [list(loader(shards, steps=8, batch=3, world=2, rank=rank)) for rank in range(2)]
    assert sum(len({*a.keys, *b.keys}) for a, b in zip(*steps)) >= 8 * 6 - 2


def test_shards_of_an_earlier_version_are_read_window_by_window(shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        raw = path.read_bytes()
        if path.suffix == ".json":
            content = json.loads(raw)
            for record in content["shards"] if path.name == "manifest.json" else ():
                del record["videos"]
            for entry in content.get("entries", ()):
                del entry["position"]
            raw = json.dumps(content).encode()
        (tmp_path / path.name).write_bytes(raw)
    assert Manifest.from_json((tmp_path / "manifest.json").read_bytes(), where="here").shards[0].videos == ()
    windows = len([e for tar in shards.glob("*.tar") for e in contents(tar)])
    batches: list[VideoBatch] = list(loader(tmp_path, steps=windows))
    assert len({key.partition("@")[0] for batch in batches for key in batch.keys}) == windows
