"""Frames out of files, folders and streams; masks written back."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from awkward_inputs import picture

from edgetam_pl.io.frames import EndOfVideo, Frames
from edgetam_pl.io.label_png import davis_palette, read_label_map, write_labels
from edgetam_pl.io.video import (
    VIDEO_FILES,
    ImageFolder,
    Stills,
    Stream,
    VideoFile,
    VideoWriter,
    count_frames,
    decoded_frames,
    fill_holes,
    open_video,
)


def grey_frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frame t is grey of brightness 6 t + 10: a codec that loses detail cannot hide which one it is."""
    return np.stack([np.full((height, width, 3), 6 * t + 10, np.uint8) for t in range(count)])


def a_file(path: Path, frames: np.ndarray) -> Path:
    with VideoWriter(path, size=frames.shape[1:3], rate=Fraction(25)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def which(video: Frames, t: int) -> int:
    return round((float(video[t].mean()) - 10) / 6)


def test_frames_come_by_number_in_any_order(tmp_path: Path) -> None:
    video = VideoFile(a_file(tmp_path / "clip.mp4", grey_frames(40)), kept=4)
    assert (video.size, video.count, video.rate) == ((32, 48), 40, 25)
    for t in (*range(40), *range(39, -1, -1), 7, 31, 0, 39, 12, 12):
        assert which(video, t) == t
    with pytest.raises(IndexError):
        video[40]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *((".m4v", "mpeg4"), (".mov", "mpeg4"), (".avi", "mpeg4"), (".mkv", "mpeg4"), (".wmv", "wmv2"), (".gif", "gif")),
        *((".mts", "mpeg2video"), (".ts", "mpeg2video"), (".mpg", "mpeg2video"), (".mpeg", "mpeg1video"), (".webm", "vp8")),
    ],
)
def test_every_kind_of_file_has_its_frames_for_track_and_for_shards(tmp_path: Path, suffix: str, codec: str) -> None:
    """Both readers find all frames in their order, whatever the times in the file."""
    path, frames = tmp_path / f"clip{suffix}", grey_frames(12)
    with av.open(str(path), "w", format={".m4v": "mp4", ".mts": "mpegts"}.get(suffix)) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert suffix in VIDEO_FILES
    in_order = dict(decoded_frames(path, range(99)))
    video = open_video(path)
    assert video.count == count_frames(path) == len(in_order) == 12
    for t in (*range(12), 3, 11, 0):
        assert np.array_equal(video[t], in_order[t])
    brightness = [float(pixels.mean()) for pixels in in_order.values()]
    assert brightness == sorted(brightness)


def test_a_video_with_reordered_pictures_is_read_as_it_is_shown(shared: Path) -> None:
    for path in sorted((shared / "data" / "videos").glob("*.mp4"))[:2]:
        video = VideoFile(path)
        shown = [frame.to_ndarray(format="rgb24") for frame, _ in zip(av.open(str(path)).decode(video=0), range(12))]
        for t in (11, 3, 4, 0):
            assert np.array_equal(video[t], shown[t])


def test_a_video_held_upright_by_a_note_in_the_file_comes_upright(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    frames[:, :16, :24] = 255  # bright top left
    path = a_file(tmp_path / "phone.mp4", frames)
    unrotated = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    header = content.index(b"tkhd")
    place = content.index(unrotated, header)
    path.write_bytes(content[:place] + quarter_clockwise + content[place + len(unrotated) :])
    video = VideoFile(path)
    assert video.size == (48, 32)
    frame = video[1]
    assert frame[:20, 20:].mean() > 200  # what was top left is now top right
    assert frame[28:].mean() < 40


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1, 30):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 9, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    video = open_video(tmp_path)
    assert isinstance(video, ImageFolder)
    assert (video.size, video.count) == ((8, 9), 4)
    assert [int(video[t][0, 0, 0]) for t in range(4)] == [1, 2, 10, 30]


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    cv2.imwrite(str(tmp_path / "red.png"), red[..., ::-1])
    for video in (open_video(tmp_path / "red.png"), open_video(tmp_path), VideoFile(a_file(tmp_path / "r.mp4", red[None]))):
        assert video[0][8, 8].argmax() == 0
        assert video[0][8, 8, 0] > 230


def test_a_stream_keeps_its_last_frames_and_says_when_it_ended() -> None:
    video = open_video(iter(grey_frames(6)))
    assert isinstance(video, Stream)
    assert video.count is None
    assert which(video, 5) == 5
    assert which(video, 3) == 3
    with pytest.raises(ValueError, match="Frame 0 of the stream is gone; frames 2 to 5 are left"):
        video[0]
    with pytest.raises(EndOfVideo, match="ended after 6 frames"):
        video[6]
    with pytest.raises(ValueError, match="ended before its first frame"):
        open_video(iter([]))


def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("this is not a video")
    (tmp_path / "nothing.mp4").touch()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="holds no images"):
        open_video(tmp_path / "empty")
    for name in ("text.mp4", "nothing.mp4"):
        with pytest.raises(ValueError, match=f"{name} cannot be decoded as a video"):
            open_video(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_video(tmp_path / "broken.jpg")
    with pytest.raises(ValueError, match="There is no video at"):
        open_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="expected \\(T, H, W, 3\\) uint8"):
        open_video(np.zeros((3, 8, 8), np.uint8))


def test_a_file_with_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match="no picture, only audio"):
        open_video(path)


def test_a_damaged_video_is_read_up_to_the_damage(tmp_path: Path) -> None:
    path = a_file(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    half = start + (len(content) - start) // 3
    content[half : half + (len(content) - start) // 3] = bytes((len(content) - start) // 3)
    path.write_bytes(bytes(content))
    video = VideoFile(path)
    assert video[0].shape == (64, 64, 3)
    with pytest.raises(ValueError, match="cannot be decoded as a video"):
        [video[t] for t in range(video.count)]


def test_a_video_that_failed_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"), VideoWriter(tmp_path / "out.mp4", size=(32, 48)) as writer:
        writer.write(np.zeros((32, 48), np.uint8))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="No video can be written"):
        VideoWriter(tmp_path / "nowhere" / "out.mp4", size=(32, 48))


def test_object_numbers_are_read_and_drawn_in_one_palette(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
    write_labels(tmp_path / "a.png", labels)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)
    coloured = cv2.imread(str(tmp_path / "a.png"))
    assert coloured is not None
    assert np.array_equal(coloured[..., ::-1], np.frombuffer(davis_palette(), np.uint8).reshape(256, 3)[labels])


def test_a_black_and_white_image_is_the_mask_of_one_object(tmp_path: Path) -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:9] = 1
    for name, pixels in (("white.png", 255 * mask), ("dark.png", mask), ("rgb.png", np.repeat(255 * mask[..., None], 3, 2))):
        cv2.imwrite(str(tmp_path / name), pixels)
        assert np.array_equal(read_label_map(tmp_path / name), mask)
    (tmp_path / "no.png").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_label_map(tmp_path / "no.png")


def test_only_small_holes_are_filled() -> None:
    logits = torch.full((1, 2, 16, 16), 3.0)
    logits[:, :, 2:4, 2:4] = -5.0  # 4 pixels
    logits[:, :, 8:12, 8:12] = -5.0  # 16 pixels
    logits[:, 1, 4, 4] = -5.0  # joins the first one by a corner
    filled = fill_holes(logits, 4)
    assert (filled[0, 0, 2:4, 2:4] == 0.1).all()
    assert torch.equal(filled[0, 0, 8:12, 8:12], logits[0, 0, 8:12, 8:12])
    assert torch.equal(filled[0, 1], logits[0, 1])
    assert (logits[0, 0, 2:4, 2:4] == -5.0).all()
    absent = torch.full((1, 1, 16, 16), -1024.0)
    assert torch.equal(fill_holes(absent, 8), absent)


def test_an_array_is_a_video_in_memory() -> None:
    video = open_video(grey_frames(3))
    assert isinstance(video, Stills)
    assert (video.size, video.count) == ((32, 48), 3)
    assert open_video(grey_frames(1)[0]).count == 1


def test_a_stream_that_was_cut_before_a_key_frame_begins_with_the_first_that_is_shown(tmp_path: Path) -> None:
    """Recordings and pieces of broadcasts: the same frames for `track`, evaluation and shards."""
    path = tmp_path / "cut.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "6", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        packets = []
        for t in range(16):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture(t), format="rgb24"))
        for packet in [*packets, *stream.encode(None)][3:]:
            container.mux(packet)
    in_order = dict(decoded_frames(path, range(100)))
    assert list(in_order) == list(range(10))
    assert count_frames(path) == 10
    video = VideoFile(path, kept=2)
    assert video.count == 10
    for t in (0, 9, 4, 0, 7):
        assert np.array_equal(video[t], in_order[t])
    assert np.abs(in_order[0].astype(int) - picture(6)).mean() < 10  # the key frame


def test_a_folder_with_two_frames_of_one_number_or_a_frame_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    for name, size in (("1.png", (32, 48)), ("2.png", (32, 48)), ("3.png", (16, 48))):
        cv2.imwrite(str(tmp_path / name), np.zeros((*size, 3), np.uint8))
    video = open_video(tmp_path)
    assert video[1].shape == (32, 48, 3)
    with pytest.raises(ValueError, match=r"3\.png is 16 x 48 pixels .* the first frame 1\.png 32 x 48"):
        video[2]
    cv2.imwrite(str(tmp_path / "2.jpg"), np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"2\.jpg and 2\.png both have the frame number 2"):
        open_video(tmp_path)
