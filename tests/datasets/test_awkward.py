"""Small awkward inputs that people have: every row of what is right, in shards, evaluation, scores and tracking.

Object 1 is red and object 2 green in every picture, and the top left corner is white. The inputs are made here
(tests/support/awkward_inputs.py); where shared data is there, the same is asked of those that lie in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from awkward_inputs import make_awkward_inputs
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.commands.prompt_flags import object_number, read_prompts
from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data.build import run
from edgetam_pl.data.sample import Header, Sample
from edgetam_pl.data.shards import ShardSet, load_index, read_manifest
from edgetam_pl.data.tars import read_members
from edgetam_pl.datasets.layout import open_layout
from edgetam_pl.datasets.masks import dense
from edgetam_pl.evaluation.datasets import open_data
from edgetam_pl.evaluation.score import score_folders
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.io.folders import numbered
from edgetam_pl.io.label_png import objects_in, read_label_map, read_labels, write_labels
from edgetam_pl.io.pictures import read_picture
from edgetam_pl.io.video import VideoFile, decoded_frames, open_video


@pytest.fixture(scope="module", params=["made", "shared"])
def awkward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "made":
        return make_awkward_inputs(tmp_path_factory.mktemp("made") / "awkward")
    root = request.getfixturevalue("shared") / "data" / "awkward"
    if not root.is_dir():
        pytest.skip(f"no awkward inputs at {root}")
    return root


def built(source: str, root: Path, out: Path, **changes: object) -> list[Sample]:
    """The samples of shards made of a folder."""
    run(ShardsConfig(source=source, root=str(root), out=str(out), processes=1, **changes))  # type: ignore[arg-type]
    return list(samples(out))


def samples(out: Path) -> Iterator[Sample]:
    for address in ShardSet(str(out), name="x").addresses:
        for entry in load_index(address).entries:
            yield schema.decode(read_members(address, entry, [member.suffix for member in entry.members]))


def red_and_green(picture: NDArray[np.uint8], masks: dict[str, NDArray[np.bool_]]) -> bool:
    """Is what each mask covers of its colour, and a corner white?"""
    red, green = picture[masks["1"]].mean(axis=0), picture[masks["2"]].mean(axis=0)
    corner = max(float(part.mean()) for part in (picture[:4, :4], picture[-4:, -4:]))  # the last in the turned video
    return corner > 200 and red[0] > 150 and max(red[1:]) < 110 and green[1] > 120 and max(green[0], green[2]) < 110


def check_stored(found: list[Sample], *, frames: int) -> None:
    """Shards hold so many frames, each with red under 1 and green under 2."""
    assert sum(len(sample.images) for sample in found) == frames
    for sample in found:
        header: Header = sample.header
        for t, image in enumerate(sample.images):
            masks = {
                name: rle.decode(counts, header.size)
                for name, track in zip(header.objects, header.masks)
                if (counts := track[t]) is not None
            }
            assert set(masks) == {"1", "2"}
            assert red_and_green(schema.decode_jpeg(image), masks)


def check_evaluated(kind: str, root: Path, *, frames: int) -> None:
    """Evaluation reads the same."""
    for clip in open_data(kind, root):
        assert clip.num_frames == frames
        assert [item.name for item in clip.objects] == ["1", "2"]
        for t in range(frames):
            one, two = clip.truths.read(t)
            assert red_and_green(clip.frames.read(t), {"1": one, "2": two})


# ---------------------------------------------------------------------- pictures and videos


def test_videos_with_a_rotation_flag_are_upright_everywhere(awkward: Path, tmp_path: Path) -> None:
    check_stored(built("videos", awkward / "own_videos" / "rot180", tmp_path / "out"), frames=8)
    check_evaluated("videos", awkward / "own_videos" / "rot180", frames=8)
    video = open_video(awkward / "videos" / "rot90.mp4")
    assert video.size == (128, 96)
    for name in ("rot90", "rot180"):
        path = awkward / "videos" / f"{name}.mp4"
        for t, pixels in decoded_frames(path, range(8)):
            assert np.array_equal(pixels, VideoFile(path)[t])
            stored = VideoFile(awkward / "videos" / "plain.mp4")[t]
            assert not np.array_equal(stored, pixels)


def test_the_orientation_in_exif_is_applied_before_masks_are_compared(awkward: Path, tmp_path: Path) -> None:
    for name in ("im_exif180", "im_exif90"):
        check_stored(built("images", awkward / name, tmp_path / name), frames=1)
        check_evaluated("images", awkward / name, frames=1)
        assert open_video(awkward / name / "images").size == (96, 128)
        assert float(open_video(awkward / name / "images")[0][:4, :4].mean()) > 200


def test_sixteen_bits_a_value_are_scaled_to_eight(awkward: Path, tmp_path: Path) -> None:
    (sample,) = built("images", awkward / "im_16", tmp_path / "out")
    for picture in (
        schema.decode_jpeg(sample.images[0]),
        read_picture(awkward / "im_16" / "images" / "a.png"),
        open_data("images", awkward / "im_16").clip("a").frames.read(0),
    ):
        assert picture.dtype == np.uint8
        assert picture[60, 5].mean() < picture[60, 120].mean() - 50  # a gradient
        assert (picture == 255).mean() < 0.2


def test_suffixes_in_capitals_are_read_like_others(awkward: Path, tmp_path: Path) -> None:
    check_stored(built("images", awkward / "im_upper", tmp_path / "out"), frames=2)
    assert open_data("images", awkward / "im_upper").names == ("a", "b")


@pytest.mark.parametrize("name", ["ts.ts", "dup.mkv", "raw.h264", "vfr.mp4", "g.gif", "plain.mp4"])
def test_any_video_gives_all_frames_numbered_by_their_order(awkward: Path, tmp_path: Path, name: str) -> None:
    path = awkward / "videos" / name
    in_order = dict(decoded_frames(path, range(100)))
    assert list(in_order) == list(range(8))
    video = VideoFile(path, kept=2)
    assert video.count == 8
    for t in (*range(8), 0, 7, 3, 6, 2, 0):
        assert np.array_equal(video[t], in_order[t])
    (tmp_path / "in" / "videos").mkdir(parents=True)
    shutil.copy(path, tmp_path / "in" / "videos" / name)
    shutil.copytree(awkward / "own_videos" / "mac" / "masks" / "a", tmp_path / "in" / "masks" / path.stem)
    check_stored(built("videos", tmp_path / "in", tmp_path / "out"), frames=8)
    check_evaluated("videos", tmp_path / "in", frames=8)


# ---------------------------------------------------------------------- names and folders


def test_roboflow_names_are_ordered_by_the_number_that_counts_up(awkward: Path, tmp_path: Path) -> None:
    found = built("davis", awkward / "roboflow", tmp_path / "out")
    check_stored(found, frames=6)
    assert found[0].header.frames == (0, 1, 2, 3, 4, 5)
    check_evaluated("folder", awkward / "roboflow", frames=6)


def test_two_files_of_one_number_are_an_error_that_names_both(awkward: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSampleError, match=r"a_7\.jpg and b_7\.jpg both have the frame number 7"):
        numbered([Path("a_7.jpg"), Path("b_7.jpg"), Path("b_8.jpg")])
    shutil.copytree(awkward / "void", tmp_path / "in")
    frames = tmp_path / "in" / "JPEGImages" / "vid"
    shutil.copy(frames / "00001.jpg", frames / "00001.png")
    with pytest.raises(ValueError, match=r"00001\.jpg and 00001\.png both have the frame number 1"):
        built("davis", tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match=r"00001\.jpg and 00001\.png"):
        open_data("folder", tmp_path / "in").clip("vid")


def test_a_mask_whose_name_says_no_frame_is_an_error_that_names_it(awkward: Path, tmp_path: Path) -> None:
    """Counting the files would give masks to frames that they do not belong to."""
    shutil.copytree(awkward / "own_videos" / "mac", tmp_path / "in")
    masks = tmp_path / "in" / "masks" / "a"
    for t in (1, 2, 3, 4, 6, 7):
        (masks / f"{t:05d}.png").unlink()
    shutil.copy(masks / "00005.png", masks / "legend.png")
    with pytest.raises(ValueError, match=r"legend\.png has no number in its name, and 2 files beside it have one"):
        built("videos", tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match=r"legend\.png has no number"):
        open_data("videos", tmp_path / "in").clip("a")
    for t in (0, 5):
        (masks / f"{t:05d}.png").rename(masks / f"{'ab'[t // 5]}.png")
    with pytest.raises(ValueError, match=r"masks without numbers \(a\.png, b\.png, legend\.png\): of which frames"):
        built("videos", tmp_path / "in", tmp_path / "again")
    shutil.copytree(awkward / "void", tmp_path / "folders")
    frames = tmp_path / "folders" / "JPEGImages" / "vid"
    shutil.copy(frames / "00001.jpg", frames / "cover.jpg")
    with pytest.raises(ValueError, match=r"cover\.jpg has no number in its name"):
        built("davis", tmp_path / "folders", tmp_path / "out2")


def test_masks_with_a_suffix_after_the_number_are_eight_frames(awkward: Path, tmp_path: Path) -> None:
    check_stored(built("videos", awkward / "own_videos" / "suffix", tmp_path / "out"), frames=8)


def test_what_systems_leave_in_folders_is_ignored(awkward: Path, tmp_path: Path) -> None:
    shutil.copytree(awkward / "macos", tmp_path / "in")
    for place in (tmp_path / "in" / "JPEGImages", tmp_path / "in" / "Annotations"):
        for junk in ("__MACOSX", ".ipynb_checkpoints"):
            shutil.copytree(place / "vid", place / junk)
        (place / "vid" / "Thumbs.db").write_bytes(b"x")
    for source, root, frames in (("davis", tmp_path / "in", 6), ("videos", awkward / "own_videos" / "mac", 8)):
        found = built(source, root, tmp_path / source)
        check_stored(found, frames=frames)
        assert read_manifest(str(tmp_path / source)).skipped == {}
    check_evaluated("folder", tmp_path / "in", frames=6)
    assert open_video(tmp_path / "in" / "JPEGImages" / "vid").count == 6
    assert len(score_folders(tmp_path / "in", tmp_path / "in", workers=1).sequences) == 1


def test_a_data_set_that_grows_is_built_whole_or_refused(
    awkward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def copy(*names: str) -> None:
        for name in names:
            for folder in ("JPEGImages", "Annotations"):
                shutil.copytree(awkward / "grow" / folder / name, tmp_path / "in" / folder / name)

    copy("va", "vb", "vc", "vd", "ve", "vf")
    built("davis", tmp_path / "in", tmp_path / "out", group=2)
    (tmp_path / "out" / "manifest.json").unlink()  # as if it had been stopped
    (tmp_path / "out" / "shard-000002.index.json").unlink()
    copy("vg", "vh")
    with pytest.raises(ValueError, match=r"has changed since .* was begun: 2 new \(vg, vh\)"):
        built("davis", tmp_path / "in", tmp_path / "out", group=2)
    found = built("davis", tmp_path / "in", tmp_path / "whole", group=2)
    assert sorted(sample.header.video for sample in found) == ["va", "vb", "vc", "vd", "ve", "vf", "vg", "vh"]
    shutil.rmtree(tmp_path / "in" / "JPEGImages" / "va")
    shutil.rmtree(tmp_path / "in" / "Annotations" / "va")
    built("davis", tmp_path / "in", tmp_path / "whole", group=2)
    assert "the data set has changed since: 1 gone (va)" in capsys.readouterr().out


def test_masks_numbered_from_one_are_refused(awkward: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has masks 1 to 8 for the 8 frames of a\.mp4; number them from 0"):
        built("videos", awkward / "own_videos" / "one_based", tmp_path / "out")


def test_two_videos_of_one_name_are_an_error_that_names_both(awkward: Path, tmp_path: Path) -> None:
    shutil.copytree(awkward / "own_videos" / "mac", tmp_path / "in")
    shutil.copy(awkward / "videos" / "plain.mp4", tmp_path / "in" / "videos" / "a.mov")
    with pytest.raises(ValueError, match=r"a\.mov and a\.mp4 have one name|a\.mp4 and a\.mov have one name"):
        built("videos", tmp_path / "in", tmp_path / "out")


def test_a_list_with_a_byte_order_mark_is_read_whole(
    awkward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bom.txt", "slash.txt"):
        path = awkward / "bom" / name
        wanted = [line.strip().strip("/") for line in path.read_text("utf-8-sig").splitlines()]
        assert open_layout(ShardsConfig(source="davis", root=str(awkward / "bom"), split=str(path))).names() == wanted
        assert list(open_data("folder", awkward / "bom", split=name).names) == wanted
    (tmp_path / "list.txt").write_text("\ufeffva\nvx\nv b\n")
    found = built("davis", awkward / "bom", tmp_path / "out", split=str(tmp_path / "list.txt"))
    assert {sample.header.video for sample in found} == {"va"}
    assert "2 of its names are not in" in (said := capsys.readouterr().out)
    assert "vx, v b" in said
    with pytest.raises(ValueError, match="has no sequence vx, v b"):
        open_data("folder", awkward / "bom", split=str(tmp_path / "list.txt"))


def test_linked_folders_of_sav_and_sa1b_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "sav").mkdir()
    (tmp_path / "store" / "sav_1.mp4").touch()
    (tmp_path / "sav" / "sav_000").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "sav")
    layout = open_layout(ShardsConfig(source="sav", root=str(tmp_path / "sav")))
    assert layout.names() == ["sav_000/sav_1"]
    (tmp_path / "sa1b").mkdir()
    for kind in ("pictures", "annotations"):
        (tmp_path / "elsewhere" / kind).mkdir(parents=True)
    (tmp_path / "elsewhere" / "pictures" / "sa_1.jpg").touch()
    (tmp_path / "elsewhere" / "annotations" / "sa_1.json").touch()
    (tmp_path / "sa1b" / "images").symlink_to(tmp_path / "elsewhere" / "pictures")
    (tmp_path / "sa1b" / "part").symlink_to(tmp_path / "elsewhere" / "annotations")
    (name,) = open_layout(ShardsConfig(source="sa1b", root=str(tmp_path / "sa1b"))).names()
    assert name.endswith("sa_1")


# ---------------------------------------------------------------------- label maps


def test_a_dithered_palette_picture_is_refused(awkward: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixed pixel by pixel, as a dithered colour picture has"):
        built("davis", awkward / "modeP", tmp_path / "out")
    with pytest.raises(ValueError, match="mixed pixel by pixel"):
        open_data("folder", awkward / "modeP").clip("vid")
    with pytest.raises(ValueError, match="mixed pixel by pixel"):
        read_prompts([(1, "mask", str(awkward / "modeP" / "Annotations" / "vid" / "00000.png"))])


@pytest.mark.parametrize(("name", "objects"), [("id255", {"1"}), ("void", {"1", "2"})])
def test_label_255_is_void_everywhere(awkward: Path, tmp_path: Path, name: str, objects: set[str]) -> None:
    for sample in built("davis", awkward / name, tmp_path / "out"):
        assert set(sample.header.objects) == objects
    assert {item.name for item in open_data("folder", awkward / name).clip("vid").objects} == objects
    first = awkward / name / "Annotations" / "vid" / "00000.png"
    asked = read_prompts([(1, "mask", str(first))])
    assert {str(prompt.object_id) for prompt in asked} == objects
    assert all(prompt.mask is not None and not prompt.mask[read_labels(first) == 255].any() for prompt in asked)
    with pytest.raises(Exception, match="255 is void"):
        object_number("255")


def test_a_frame_of_void_alone_has_no_object(awkward: Path, tmp_path: Path) -> None:
    shutil.copytree(awkward / "id255", tmp_path / "in")
    path = tmp_path / "in" / "Annotations" / "vid" / "00003.png"
    labels = read_labels(path)
    write_labels(path, np.where(labels == 255, 255, 0).astype(np.uint8))
    (sample,) = built("davis", tmp_path / "in", tmp_path / "out")
    assert [counts is None for counts in sample.header.masks[0]] == [False, False, False, True, False, False]
    assert not open_data("folder", tmp_path / "in").clip("vid").truths.read(3).any()


def test_numbers_above_255_stay_apart(awkward: Path, tmp_path: Path) -> None:
    found = built("davis", awkward / "u16", tmp_path / "out")
    assert {sample.header.objects for sample in found} == {("300", "1000")}
    clip = open_data("folder", awkward / "u16").clip("vid")
    assert [item.name for item in clip.objects] == ["300", "1000"]
    assert clip.truths.read(0).sum(axis=(1, 2)).tolist() == [400, 400]
    asked = read_prompts([(1, "mask", str(awkward / "u16" / "Annotations" / "vid" / "00000.png"))])
    assert [prompt.object_id for prompt in asked] == [300, 1000]
    rows = score_folders(awkward / "u16", awkward / "u16", rule="folder", workers=1).report.rows
    assert sorted(row.object for row in rows) == ["1000", "300"]


def test_label_maps_as_jpeg_are_refused_and_frames_as_jpeg_are_read(awkward: Path, tmp_path: Path) -> None:
    check_stored(built("davis", awkward / "jpeg", tmp_path / "out"), frames=6)
    check_evaluated("folder", awkward / "jpeg", frames=6)
    shutil.copytree(awkward / "jpeg", tmp_path / "in")
    for path in (tmp_path / "in" / "Annotations" / "vid").glob("*.png"):
        Image.fromarray(read_labels(path)).save(path.with_suffix(".jpg"))
        path.unlink()
    for read in (
        lambda: built("davis", tmp_path / "in", tmp_path / "again"),
        lambda: open_data("folder", tmp_path / "in").clip("vid"),
    ):
        with pytest.raises(ValueError, match="whose compression changes object numbers"):
            read()
    with pytest.raises(ValueError, match="is a JPEG, whose compression"):
        read_labels(awkward / "masks" / "bw.jpg")


@pytest.mark.parametrize(
    ("name", "objects"),
    [
        ("ids_gray.png", (7, 130)),
        ("void_gray.png", (1, 2)),
        ("void_pal.png", (1, 2)),
        ("one_void_pal.png", (1,)),
        ("bin01_gray.png", (1,)),
    ],
)
def test_a_label_map_is_read_as_labels(awkward: Path, tmp_path: Path, name: str, objects: tuple[int, ...]) -> None:
    path = awkward / "masks" / name
    for labels in (read_labels(path), read_label_map(path)):
        assert objects_in(labels, path) == objects
    asked = read_prompts([(3, "mask", str(path))])
    assert [prompt.object_id for prompt in asked] == ([3] if len(objects) == 1 else list(objects))
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    Image.new("RGB", (128, 96)).save(tmp_path / "in" / "images" / "a.jpg")
    shutil.copy(path, tmp_path / "in" / "masks" / "a.png")
    (sample,) = built("images", tmp_path / "in", tmp_path / "out")
    assert sample.header.objects == tuple(map(str, objects))
    clip = open_data("images", tmp_path / "in").clip("a")
    assert [item.name for item in clip.objects] == [*map(str, objects)]
    found = open_layout(ShardsConfig(source="images", root=str(tmp_path / "in"))).clip("a").masks.read(0)
    for mask, label in zip(clip.truths.read(0), objects):
        assert np.array_equal(mask, read_labels(path) == label)
        assert np.array_equal(mask, dense(found[str(label)]))


def test_a_black_and_white_jpeg_is_one_object_for_track(awkward: Path) -> None:
    (prompt,) = read_prompts([(2, "mask", str(awkward / "masks" / "bw.jpg"))])
    assert prompt.object_id == 2
    assert prompt.mask is not None
    assert 780 < prompt.mask.sum() < 820


@pytest.mark.parametrize("name", ["rgb.png", "rgb255.png"])
def test_coloured_masks_are_refused_with_the_file_and_the_cure(awkward: Path, name: str) -> None:
    path = awkward / "masks" / name
    with pytest.raises(ValueError, match=rf"{name} is RGB; .*colour image.*Write the object numbers themselves"):
        read_labels(path)
    with pytest.raises(ValueError, match=rf"{name} is neither .*Write the object numbers themselves"):
        read_prompts([(1, "mask", str(path))])
