"""`edgetam app`: a web page on this machine to click on a video and watch it being followed (Gradio).

`Clicking` is the page without the web: it holds one session and answers with pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from edgetam_pl.commands.track import load_tracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.overlay import paint_labels
from edgetam_pl.io.video import VideoFile, VideoWriter, fill_holes, open_video
from edgetam_pl.tracking.step import VideoModel
from edgetam_pl.types import FOREGROUND

if TYPE_CHECKING:
    import gradio  # pyright: ignore[reportMissingImports]

ON, OFF = "on the object", "off the object"
"""What a click can mean."""

GREEN, RED, WHITE = (40, 200, 60), (220, 50, 40), (255, 255, 255)
"""Colours of points on and off an object, and of their rims."""


class Clicking:
    """One visitor and one video.

    Args:
        tracker: the model.
        path: video file or folder.
        options: habits of the session. Every answer is kept, so that a visitor may go back and correct.
        device: where the model is.
    """

    def __init__(self, tracker: VideoModel, path: str | Path, *, options: SessionOptions, device: str) -> None:
        self.video = open_video(path)
        self.session = Session(tracker, self.video, options=options, device=device, fill_holes=fill_holes)

    def picture(self, t: int) -> np.ndarray:
        """Frame t (H, W, 3) uint8 with what is known about it drawn in: masks, and the points that were clicked."""
        drawn = self._painted(t)
        radius = max(4, self.video.size[0] // 120)
        for said in self.session.prompts(t).values():
            for (x, y), label in zip(said.points, said.labels):
                centre = (round(x), round(y))
                cv2.circle(drawn, centre, radius + 2, WHITE, -1)
                cv2.circle(drawn, centre, radius, GREEN if label == FOREGROUND else RED, -1)
        return drawn

    def click(self, x: float, y: float, *, t: int, number: int, meaning: str) -> np.ndarray:
        """The frame after one more click on object `number`."""
        self.session.prompt(number, t, points=[(x, y)], labels=[int(meaning == ON)])
        return self.picture(t)

    def undo(self, t: int) -> np.ndarray:
        """The frame after taking the last step back."""
        self.session.undo()
        return self.picture(t)

    def start_over(self, t: int) -> np.ndarray:
        """The frame without any object."""
        self.session.reset()
        return self.picture(t)

    def follow(self, *, backwards: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Each frame as it is tracked, with its number."""
        for out in self.session.propagate(backwards=backwards):
            yield out.frame, self.picture(out.frame)

    def film(self, path: Path) -> Path:
        """The whole video with everything known drawn in."""
        rate = self.video.rate if isinstance(self.video, VideoFile) else Fraction(25)
        with VideoWriter(path, size=self.video.size, rate=rate) as writer:
            for t in range(self.video.count or 0):
                writer.write(self._painted(t))
        return path

    def _painted(self, t: int) -> np.ndarray:
        """Frame t with the masks that are known."""
        return paint_labels(self.video[t], self.session.masks(t).label_map().cpu().numpy().astype(np.uint8))


def main(argv: list[str]) -> int:
    """Serve the page until interrupted; returns the exit status.

    Raises:
        ModuleNotFoundError: gradio is not installed (pip install 'edgetam-pl[demo]').
        ValueError: no weights, or weights of another model.
    """
    args = _parser().parse_args(argv)
    import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]  (before the weights: missing packages first)

    if args.threads:
        torch.set_num_threads(args.threads)
    tracker = load_tracker(args.model, args.weights, device=args.device)
    page(tracker, device=args.device).launch(
        server_name=args.host, server_port=args.port, inbrowser=args.browser, share=False
    )
    return 0


def page(tracker: VideoModel, *, device: str = "cpu") -> gradio.Blocks:
    """The page: a video, a frame to click on, and the film that comes of it."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    options = SessionOptions(keep_all=True, channels_last=True)
    films = tempfile.TemporaryDirectory(prefix="edgetam-app-")  # lives as long as the page

    def opened(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return None, None, gr.Slider(0, 1, 0, step=1), None
        with _as_notice(gr):
            visit = Clicking(tracker, path, options=options, device=device)
            last = max((visit.video.count or 1) - 1, 1)
            return visit, visit.picture(0), gr.Slider(0, last, 0, step=1), None

    def shown(visit: Clicking | None, t: float) -> np.ndarray | None:
        with _as_notice(gr):
            return None if visit is None else visit.picture(int(t))

    def clicked(visit: Clicking | None, t: float, number: float, meaning: str, event: Any) -> np.ndarray:
        with _as_notice(gr):
            x, y = event.index
            return _there(visit).click(x, y, t=int(t), number=int(number), meaning=meaning)

    clicked.__annotations__ = {"event": gr.SelectData}  # Gradio looks for the type, which this module does not import

    def undone(visit: Clicking | None, t: float) -> np.ndarray:
        with _as_notice(gr):
            return _there(visit).undo(int(t))

    def restarted(visit: Clicking | None, t: float) -> np.ndarray:
        with _as_notice(gr):
            return _there(visit).start_over(int(t))

    def followed(visit: Clicking | None, backwards: bool) -> Iterator[tuple[np.ndarray | None, float, str | None]]:
        with _as_notice(gr):
            visit = _there(visit)
            picture, t = None, 0
            for t, picture in visit.follow(backwards=backwards):
                yield picture, t, None
            yield picture, t, str(visit.film(Path(films.name) / f"{id(visit)}.mp4"))

    with gr.Blocks(title="EdgeTAM", analytics_enabled=False) as blocks:  # nobody else hears that this page was opened
        gr.Markdown("# Track anything\nOpen a video, click on what you want to follow, then press *Track*.")
        visit = gr.State(None)
        with gr.Row():
            with gr.Column():
                source = gr.Video(label="Video", sources=["upload"])
                number = gr.Number(1, label="Object", precision=0, minimum=1, maximum=255)
                meaning = gr.Radio([ON, OFF], value=ON, label="A click is")
                with gr.Row():
                    undo, restart = gr.Button("Undo"), gr.Button("Start over")
                backwards = gr.Checkbox(False, label="Backwards")
                track = gr.Button("Track", variant="primary")
            with gr.Column(scale=2):
                frame = gr.Image(label="Click here", interactive=False, type="numpy", buttons=["fullscreen", "download"])
                time = gr.Slider(0, 1, 0, step=1, label="Frame")
                film = gr.Video(label="Result")
        source.change(opened, source, [visit, frame, time, film])
        time.release(shown, [visit, time], frame)
        frame.select(clicked, [visit, time, number, meaning], frame)
        undo.click(undone, [visit, time], frame)
        restart.click(restarted, [visit, time], frame)
        track.click(followed, [visit, backwards], [frame, time, film])
    return blocks


def _there(visit: Clicking | None) -> Clicking:
    if visit is None:
        raise ValueError("Open a video first.")
    return visit


class _as_notice:
    """What a visitor did wrong is shown on the page; everything else is an error of ours and is raised."""

    def __init__(self, gr: Any) -> None:
        self._error: type[Exception] = gr.Error

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise self._error(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgetam app", description="A local web page to click on a video and watch it track."
    )
    parser.add_argument("--weights", help="checkpoint (official or ours), or `random`")
    parser.add_argument("--model", help="a model of the zoo (default: what the weights record, or edgetam)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU (default: PyTorch's choice)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on (default: 7860)")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    return parser
