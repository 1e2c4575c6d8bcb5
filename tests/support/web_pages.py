"""A folder of target=web, served, and a visitor with a browser that has no window."""

from __future__ import annotations

import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.exporting.web_server import HEADERS, PageServer
from edgetam_pl.io.label_png import read_labels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("EDGETAM_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
"""The browser of the tests: the one that EDGETAM_CHROMIUM names (`make test-web` does), else one that is installed."""


@contextmanager
def served(folder: Path, headers: dict[str, str] = HEADERS) -> Iterator[str]:
    """The folder's address while a thread serves it."""
    with PageServer(("127.0.0.1", 0), folder, headers=headers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


class Visitor:
    """Does on the page what a hand does, and reads what an eye reads."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.failures: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
        page.goto(url)

    def until(self, test: Callable[[], object], seconds: float = 240) -> None:
        """Wait; the page's policy forbids playwright's own way, which evaluates text."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, self.page.inner_text("main")
            time.sleep(0.05)

    def text(self, name: str) -> str:
        return self.page.text_content(f"#{name}") or ""

    def idle(self) -> None:
        """Until the page takes another request."""
        self.until(lambda: self.page.is_enabled("#example") or self.text("load-error"))

    def do(self, button: str) -> None:
        self.page.click(f"#{button}")
        self.idle()

    def choose(self, *paths: Path) -> None:
        self.page.set_input_files("#file", [str(path) for path in paths])
        self.idle()

    def _spot(self, x: float, y: float) -> tuple[tuple[int, int], tuple[float, float]]:
        """The pixel of the screen that is nearest to a place in the video, and the place in the video that it means."""
        area = self.page.locator("#frame").bounding_box()
        size = self.page.evaluate("[document.getElementById('frame').width, document.getElementById('frame').height]")
        scale = area["width"] / size[0], area["height"] / size[1]
        spot = round(area["x"] + x * scale[0]), round(area["y"] + y * scale[1])
        return spot, ((spot[0] - area["x"]) / scale[0], (spot[1] - area["y"]) / scale[1])

    def click(self, x: float, y: float, *, off: bool = False) -> tuple[float, float]:
        """Click near a place in the video; returns where exactly."""
        spot, place = self._spot(x, y)
        if off:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*spot)
        if off:
            self.page.keyboard.up("Shift")
        self.idle()
        return place

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Drag a box; returns its corners."""
        (begin, first), (end, last) = self._spot(x0, y0), self._spot(x1, y1)
        self.page.mouse.move(*begin)
        self.page.mouse.down()
        self.page.mouse.move(*end)
        self.page.mouse.up()
        self.idle()
        return first, last

    def masks(self, folder: Path) -> dict[int, NDArray[np.uint8]]:
        """The label maps that the page saves, by frame."""
        with self.page.expect_download() as download:
            self.page.click("#masks")
        self.idle()
        path = folder / "masks.zip"
        download.value.save_as(path)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            archive.extractall(folder / "masks")
        return {int(file.stem): np.asarray(read_labels(file)) for file in sorted((folder / "masks").glob("*.png"))}

    def module(self, name: str, script: str, *given: Any) -> Any:
        """What a function of one of the client's modules makes of `given`: script is the body, m the module."""
        script = f"async given => {{ const m = await import(new URL('{name}', location.href).href); {script} }}"
        return self.page.evaluate(script, list(given))
