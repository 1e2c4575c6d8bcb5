"""The click page: what its buttons do, and, where Gradio is installed, that it is built and answers."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import gradio_stub
import numpy as np
import pytest

from edgetam_pl.commands.app import OFF, ON, Clicking, main, page
from edgetam_pl.commands.track import load_tracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.io.video import VideoWriter, open_video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 60, (5, 64, 96, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "clip.mp4", size=(64, 96)) as writer:
        for frame in frames:
            writer.write(frame)
    return tmp_path / "clip.mp4"


def a_visit(clip: Path) -> Clicking:
    return Clicking(load_tracker("toy", "random"), clip, options=SessionOptions(keep_all=True, gate=False), device="cpu")


def test_a_visitor_clicks_tracks_corrects_and_goes_back(clip: Path) -> None:
    visit = a_visit(clip)
    untouched = visit.picture(0)
    clicked = visit.click(40, 30, t=0, number=1, meaning=ON)
    assert not np.array_equal(clicked, untouched)
    assert (clicked[30, 40] == [40, 200, 60]).all()
    assert [t for t, _ in visit.follow(backwards=False)] == [0, 1, 2, 3, 4]
    corrected = visit.click(10, 10, t=2, number=1, meaning=OFF)
    assert (corrected[10, 10] == [220, 50, 40]).all()
    visit.undo(2)
    visit.undo(2)
    assert np.array_equal(visit.undo(0), untouched)
    visit.click(40, 30, t=0, number=1, meaning=ON)
    assert np.array_equal(visit.start_over(0), untouched)


def test_the_film_has_every_frame(clip: Path, tmp_path: Path) -> None:
    visit = a_visit(clip)
    visit.click(40, 30, t=0, number=1, meaning=ON)
    list(visit.follow(backwards=False))
    film = open_video(visit.film(tmp_path / "film.mp4"))
    assert (film.size, film.count) == ((64, 96), 5)


@pytest.mark.skipif(find_spec("gradio") is not None, reason="gradio is installed")
def test_without_gradio_the_missing_package_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as error:
        main(["--weights", "random", "--model", "toy"])
    assert error.value.name == "gradio"


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: pip install 'edgetam-pl[demo]'")
def test_the_page_is_built_and_tells_nobody() -> None:
    blocks = page(load_tracker("toy", "random"))
    labels = {component.get("props", {}).get("label") for component in blocks.get_config_file()["components"]}
    assert {"Video", "Object", "A click is", "Click here", "Frame", "Result"} <= labels
    assert not blocks.analytics_enabled


def test_the_example_button_opens_the_shipped_clip_and_a_line_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = gradio_stub.Gradio()
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    page(load_tracker("toy", "random"), note="Weights: the shipped tracker")
    assert "Weights: the shipped tracker" in gradio.find("Markdown", "Track anything").words[0]
    ((event, handler, inputs, outputs),) = gradio.find("Button", "Example").wired
    assert (event, inputs) == ("click", None)
    visit, picture, slider, film = handler()
    assert [one.kind for one in outputs] == ["State", "Image", "Slider", "Video"]
    assert picture.shape == (200, 300, 3)
    assert (visit.video.count, slider.words[1], film) == (60, 59, None)


def test_a_mistake_of_a_visitor_is_a_sentence_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = gradio_stub.Gradio()
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    page(load_tracker("toy", "random"))
    (_, undo, _, _), (_, follow, _, _) = (*gradio.find("Button", "Undo").wired, *gradio.find("Button", "Track").wired)
    with pytest.raises(gradio_stub.Error, match="Open a video first"):
        undo(None, 0)
    ((_, handler, _, _),) = gradio.find("Button", "Example").wired
    visit = handler()[0]
    with pytest.raises(gradio_stub.Error, match="prompt an object first"):
        next(follow(visit, False))
