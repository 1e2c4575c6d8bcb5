"""The loader's promises: the same steps on every rank, nothing twice, nothing lost, resumable to the sample (F1 to F9)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_sets import spoil_masks

from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig
from edgetam_pl.data.build import run
from edgetam_pl.data.loader import BrokenDataError, ShardLoader, build_loader
from edgetam_pl.data.sampling import Order, Schedule
from edgetam_pl.types import VideoBatch


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 clips of 6 frames in 5 shards of uneven size."""
    out = tmp_path_factory.mktemp("clips")
    run(ShardsConfig(source="toy", out=str(out), clips=23, frames=6, size=32, objects=2, group=5, processes=1))
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pictures")
    run(ShardsConfig(source="toy", out=str(out), clips=17, frames=1, size=32, objects=3, group=4, processes=1))
    return out


def loader(
    *sources: DataSource,
    frames: int = 4,
    batch: int = 1,
    steps: int = 12,
    seed: int = 5,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    train: bool = True,
    objects: int = 2,
    max_skips: float = 0.05,
    augment: AugmentConfig | None = None,
    shuffle: int = 64,
) -> ShardLoader:
    cfg = DataConfig(list(sources), augment or AugmentConfig(), workers=workers, max_skips=max_skips, shuffle=shuffle)
    return build_loader(
        cfg,
        image_size=32,
        num_frames=frames,
        batch=batch,
        max_objects=objects,
        steps=steps,
        seed=seed,
        rank=rank,
        world_size=world,
        train=train,
    )


def video(folder: Path | str, **changes: object) -> DataSource:
    return DataSource(name="clips", shards=str(folder), **changes)  # type: ignore[arg-type]


def image(folder: Path, **changes: object) -> DataSource:
    return DataSource(name="pictures", shards=str(folder), kind="image", **changes)  # type: ignore[arg-type]


def names(batch: VideoBatch) -> list[str]:
    """Keys without the frames that were chosen."""
    return [key.split("@")[0] for key in batch.keys]


def equal(one: VideoBatch, two: VideoBatch) -> bool:
    return (
        one.keys == two.keys
        and one.source == two.source
        and torch.equal(one.frames, two.frames)
        and torch.equal(one.masks, two.masks)
        and torch.equal(one.video_of, two.video_of)
    )


def test_a_batch_has_the_promised_shapes_and_leaves_as_bytes(clips: Path) -> None:
    batch = next(iter(loader(video(clips), batch=3)))
    objects = batch.num_objects
    assert batch.frames.shape == (3, 4, 3, 32, 32)
    assert batch.frames.dtype == torch.uint8
    assert batch.masks.shape == (4, objects, 32, 32)
    assert batch.masks.dtype == torch.bool
    assert batch.video_of.tolist() == sorted(batch.video_of.tolist())
    assert set(batch.video_of.tolist()) == {0, 1, 2}
    assert max(Counter(batch.video_of.tolist()).values()) <= 2
    assert batch.masks[0].flatten(1).any(1).all()  # every chosen object is seen on the first frame


def test_an_image_is_a_clip_of_one_frame_in_a_phase_of_many(clips: Path, pictures: Path) -> None:
    batches = list(loader(video(clips), image(pictures, batch=2, max_objects=1), frames=4, steps=20))
    assert {batch.source: batch.frames.shape[:2] for batch in batches} == {"clips": (1, 4), "pictures": (2, 1)}
    assert all(batch.num_objects == 2 for batch in batches if batch.source == "pictures")


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_f2_every_rank_counts_the_same_steps_and_an_epoch_is_complete(clips: Path, world: int) -> None:
    """F1, F2: 23 samples do not divide by 2, 3 or 4 ranks; all ranks still make the same number of steps."""
    steps = 23  # one epoch a rank: `world` epochs in all, cut among the ranks
    seen = [
        [n for batch in loader(video(clips), rank=r, world=world, steps=steps) for n in names(batch)] for r in range(world)
    ]
    assert {len(mine) for mine in seen} == {steps}
    order = [seen[r][k] for k in range(steps) for r in range(world)]  # the order that the ranks share
    for epoch in range(world):
        assert len(set(order[23 * epoch : 23 * (epoch + 1)])) == 23  # nothing twice, nothing lost


def test_f3_no_two_streams_are_equal_over_a_thousand_of_rank_worker_and_epoch() -> None:
    """F3: WebDataset's seeds repeat (worker 1 of epoch 0 is worker 0 of epoch 31); an order from one seed cannot."""
    order = Order(np.full(16, 16), seed=(0,), window=4)
    streams = set()
    for epoch in range(16):
        drawn = [order.at(epoch * 256 + p)[1:] for p in range(256)]
        for rank in range(8):
            for worker in range(8):
                streams.add(tuple(drawn[rank::8][worker::8]))
    assert len(streams) == 16 * 8 * 8


def test_f4_fewer_samples_than_ranks_need_is_an_error_that_names_the_numbers(clips: Path) -> None:
    with pytest.raises(ValueError, match=r"23 samples of 4 frames, but 6 ranks of 4 clips need 24"):
        loader(video(clips), world=6, batch=4)


def test_f4_fewer_shards_than_ranks_and_workers_starve_nobody(clips: Path) -> None:
    """5 shards, 8 ranks: samples are shared out, not shards."""
    first = [names(next(iter(loader(video(clips), rank=r, world=8))))[0] for r in range(8)]
    assert len(set(first)) == 8


def test_f5_all_ranks_draw_the_same_source_at_a_step(clips: Path, pictures: Path) -> None:
    kinds = [
        [b.source for b in loader(video(clips, weight=2.0), image(pictures), rank=r, world=2, steps=16)] for r in range(2)
    ]
    assert kinds[0] == kinds[1]
    assert set(kinds[0]) == {"clips", "pictures"}


def test_f5_sources_are_drawn_by_their_weights() -> None:
    drawn = Schedule([3.0, 1.0], seed=0, steps=4000).sources
    assert 0.72 < (drawn == 0).mean() < 0.78
    assert (Schedule([3.0, 1.0], seed=0, steps=100).sources == drawn[:100]).all()  # a longer phase begins alike


def test_f5_batches_of_one_optimiser_step_are_of_one_source() -> None:
    drawn = Schedule([1.0, 1.0, 2.0], seed=0, steps=400, together=4).sources.reshape(100, 4)
    assert (drawn == drawn[:, :1]).all()
    assert (drawn[:, 0] == Schedule([1.0, 1.0, 2.0], seed=0, steps=100).sources).all()  # however many batches make a step


def test_f6_the_loader_has_no_length_and_gives_exactly_its_steps(clips: Path) -> None:
    made = loader(video(clips), steps=9)
    assert not hasattr(made, "__len__")
    assert sum(1 for _ in made) == 9
    assert sum(1 for _ in made) == 9  # and again


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_f10_a_resumed_loader_continues_with_the_very_next_sample(clips: Path, pictures: Path, stop: int) -> None:
    sources = (video(clips, weight=2.0), image(pictures))
    whole = list(loader(*sources, batch=2))
    interrupted = loader(*sources, batch=2)
    stream = iter(interrupted)
    for _ in range(stop):
        next(stream)
    state = json.loads(json.dumps(interrupted.state_dict()))
    assert state["batches"] == stop
    for given in (state, {"batches": stop}):
        resumed = loader(*sources, batch=2)
        resumed.load_state_dict(given)
        rest = list(resumed)
        assert len(rest) == len(whole) - stop
        assert all(equal(a, b) for a, b in zip(rest, whole[stop:]))


def test_f10_another_world_size_is_said_and_goes_on_where_the_sources_were(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = [loader(video(clips), rank=r, world=2, steps=20) for r in range(2)]
    drawn: list[str] = []
    streams = [iter(made) for made in before]
    for _ in range(5):
        for stream in streams:
            drawn += names(next(stream))
    after = loader(video(clips), steps=20)
    with caplog.at_level(logging.WARNING):
        after.load_state_dict(before[0].state_dict())
    assert "left at 2 ranks and go on at 1" in caplog.text
    drawn += [n for batch in after for n in names(batch)]
    assert len(drawn) == 10 + 15
    assert len(set(drawn[:23])) == 23  # the epoch is still complete


def test_a_state_beyond_the_end_is_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match="after batch 99, but has 12"):
        loader(video(clips)).load_state_dict({"batches": 99})


def test_the_training_seed_changes_the_order_and_the_same_seed_repeats_it(clips: Path) -> None:
    first, again, other = (list(loader(video(clips), seed=s)) for s in (1, 1, 2))
    assert all(equal(a, b) for a, b in zip(first, again))
    assert [b.keys for b in first] != [b.keys for b in other]


def test_the_order_of_an_epoch_differs_from_the_next(clips: Path) -> None:
    drawn = [n for batch in loader(video(clips), steps=46) for n in names(batch)]
    assert drawn[:23] != drawn[23:]
    assert sorted(drawn[:23]) == sorted(drawn[23:])


def test_validation_is_in_order_and_unchanged(clips: Path) -> None:
    plain = [list(loader(video(clips), train=False, steps=23, seed=s)) for s in (1, 2)]
    assert all(equal(a, b) for a, b in zip(*plain))
    assert len({n for batch in plain[0] for n in names(batch)}) == 23
    assert not any("<" in key for batch in plain[0] for key in batch.keys)


@pytest.mark.parametrize("window", [1, 2, 64])
def test_a_small_shuffle_window_still_gives_complete_epochs(window: int) -> None:
    order = Order(np.array([3, 0, 5, 1, 4]), seed=(9,), window=window)
    for epoch in range(3):
        drawn = [order.at(13 * epoch + p) for p in range(13)]
        assert {e for e, _, _ in drawn} == {epoch}
        assert len({d[1:] for d in drawn}) == 13


def test_neighbours_in_time_lie_in_few_shards() -> None:
    order = Order(np.full(100, 50), seed=(1,), window=4)
    assert len({order.at(p)[1] for p in range(200)}) == 4


def test_f7_clips_too_short_for_the_phase_are_left_out_before_training_and_none_at_all_is_an_error(
    clips: Path, tmp_path: Path
) -> None:
    long = tmp_path / "mixed"
    run(ShardsConfig(source="toy", out=str(long), clips=3, frames=9, size=32, window=6, stride=6, processes=1))
    made = loader(video(long), frames=7, steps=6)  # 9 frames: windows 0-5 and 3-8, which a clip may be read across
    assert len({k.rpartition("-")[0] for b in made for k in names(b)}) == 3
    with pytest.raises(ValueError, match=r"No clip of 'clips' .* has 10 frames; the longest has 9"):
        loader(video(long), frames=10)


def break_shards(folder: Path, out: Path, count: int) -> Path:
    """A copy of the shards whose first `count` tars have a byte flipped in every sample's first frame."""
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    for path in sorted(out.glob("*.tar"))[:count]:
        data = bytearray(path.read_bytes())
        index = json.loads((out / path.name.replace(".tar", ".index.json")).read_text())
        for entry in index["entries"]:
            for member in entry["members"]:
                data[member["offset"] + member["size"] // 2] ^= 0xFF
        path.write_bytes(bytes(data))
    return out


def test_f7_a_broken_sample_is_counted_by_cause_and_the_next_in_line_stands_in(clips: Path, tmp_path: Path) -> None:
    broken = break_shards(clips, tmp_path / "broken", 1)
    made = loader(video(broken), steps=23, max_skips=0.9)
    batches = list(made)
    assert len(batches) == 23
    assert made.skips["checksum differs"] >= 5
    again = loader(video(broken), steps=23, max_skips=0.9)
    again.load_state_dict({"batches": 10})
    assert all(equal(a, b) for a, b in zip(list(again), batches[10:]))  # stand-ins are no accident


def test_f7_too_many_broken_samples_stop_the_run_and_name_the_shards(clips: Path, tmp_path: Path) -> None:
    broken = break_shards(clips, tmp_path / "broken", 2)
    with pytest.raises(BrokenDataError, match=r"checksum differs .*shard-00000[01]\.tar.*shards verify"):
        list(loader(video(broken), steps=80, max_skips=0.05))


def test_f7_nothing_but_broken_samples_ends_at_once(clips: Path, tmp_path: Path) -> None:
    broken = break_shards(clips, tmp_path / "broken", 5)
    with pytest.raises(BrokenDataError, match="samples of 'clips' in a row cannot be used"):
        list(loader(video(broken), steps=80, max_skips=1.0))


def test_f7_a_mask_that_cannot_be_read_is_counted_under_its_shard_and_the_next_clip_stands_in(
    clips: Path, tmp_path: Path
) -> None:
    foreign = spoil_masks(clips, tmp_path / "shard-000003.tar")
    made = loader(video(foreign), steps=10, batch=2, max_skips=1.0)
    assert [len(batch.keys) for batch in made] == [2] * 10
    assert set(made.skips) == {"invalid mask"}
    with pytest.raises(BrokenDataError, match=r"invalid mask .*shard-000003\.tar"):
        list(loader(video(foreign), steps=40, batch=2, max_skips=0.0))


def test_a_missing_shard_is_skipped_and_counted(clips: Path, tmp_path: Path) -> None:
    broken = break_shards(clips, tmp_path / "broken", 0)
    (broken / "shard-000001.tar").unlink()
    made = loader(video(broken), steps=23, max_skips=0.9)
    assert len(list(made)) == 23
    assert set(made.skips) == {"shard unreadable"}


def test_a_source_without_shards_says_how_to_build_some() -> None:
    with pytest.raises(ValueError, match="edgetam shards source=toy"):
        loader(DataSource(name="toy"))


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder of shards"):
        loader(video(tmp_path))


def test_a_brace_pattern_of_tars_needs_no_manifest(clips: Path) -> None:
    made = loader(video(f"{clips}/shard-{{000000..000004}}.tar"), steps=23)
    assert len({n for batch in made for n in names(batch)}) == 23


def test_tars_without_index_are_read_all_the_same(clips: Path, tmp_path: Path) -> None:
    for path in clips.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    made = loader(video(f"{tmp_path}/shard-{{000000..000004}}.tar"), steps=23)
    assert len({n for batch in made for n in names(batch)}) == 23


def test_reversed_clips_begin_with_an_object_and_count_down(clips: Path) -> None:
    batches = list(loader(video(clips), steps=40, augment=AugmentConfig(reverse=1.0)))
    assert all(key.endswith("<") for batch in batches for key in batch.keys)
    assert all(batch.masks[0].flatten(1).any(1).all() for batch in batches)
