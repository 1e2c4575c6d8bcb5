"""The app's page over HTTP, with nothing but the standard library. All state is here; the page only shows it.

    GET  /                                  the page
    POST /open?name=NAME, /example          a video (its bytes), or the one that comes with the package: {visit, state}
    GET  /visit/ID                          the state of a visit
    GET  /visit/ID/frame/T                  frame T as a JPEG
    GET  /visit/ID/film, /masks, /coco      what is saved, under the name of the video
    POST /visit/ID/prompt                   {object, frame, points, labels, box}
    POST /visit/ID/remove                   {object}
    POST /visit/ID/undo, /reset, /stop
    POST /visit/ID/track                    {backwards}: a line {frame} as each frame is tracked, then {state} or {error}

A mistake of the visitor is answered with a status from 400 to 499 and {error}, a sentence.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

from edgetam_pl.interactive import example_clip
from edgetam_pl.interactive.user_prompts import UserPrompts, parse_prompts
from edgetam_pl.interactive.visit import Visit
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.io.overlay import COLOURS
from edgetam_pl.io.templates import render
from edgetam_pl.tracking.step import VideoModel

UPLOAD_MIB = 512
"""The largest video that is taken, unless another limit is given."""
VISITS = 8
"""Videos that are kept open; an older one is closed for a ninth."""
_SMALL = 1 << 16
"""Bytes of a request that is not a video, at most."""
_CHUNK = 1 << 20
POLICY = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:"
"""What a browser may load for the page: nothing of another host."""


class Refused(ValueError):
    """A request that is not done. The message is for the visitor."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AppServer(ThreadingHTTPServer):
    """Serves the page to any number of visitors, who share one model. Use as a context; uploads are deleted at its end.

    Args:
        address: (host, port); port 0 is any that is free.
        tracker: the model.
        device: where it is.
        note: a line under the title that says which model it is.
        upload_mib: larger videos are refused, unread.

    Raises:
        OSError: the address cannot be served on.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        tracker: VideoModel,
        *,
        device: str = "cpu",
        note: str = "",
        upload_mib: int = UPLOAD_MIB,
    ) -> None:
        self.tracker, self.device, self.note, self.upload_mib = tracker, device, note, upload_mib
        self._model_turn = threading.Lock()
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="edgetam-app-", ignore_cleanup_errors=True)
        super().__init__(address, _Request)  # last: it calls server_close where it fails

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def page(self) -> str:
        """The page as HTML."""
        return render("edgetam_pl.interactive", "app.html", note=self.note, upload_mib=self.upload_mib, colours=COLOURS)

    def new_folder(self) -> Path:
        """A folder for a visit, or for something to be saved."""
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def open(self, path: Path) -> tuple[str, Visit]:
        """A visit to the video at this path, and its id, which nobody can guess.

        Raises:
            ValueError: the file cannot be decoded.
        """
        visit = Visit(self.tracker, path, device=self.device, model_turn=self._model_turn)
        key = secrets.token_urlsafe(12)
        self._visits[key] = visit
        while len(self._visits) > VISITS:
            _, old = self._visits.popitem(last=False)
            old.close()
        return key, visit

    def visit(self, key: str) -> Visit:
        """The visit of that id. Raises Refused where there is none (any more)."""
        if key not in self._visits:
            raise Refused(404, "This video is no longer open (the server began anew, or others were opened); open it again.")
        self._visits.move_to_end(key)
        return self._visits[key]

    def sentence(self, error: ValueError) -> str:
        """What to tell a visitor: without the name of the cause, and without our folder before the name of a file."""
        text = error.message if isinstance(error, BadSampleError) else str(error)
        return re.sub(rf"{re.escape(self._folder.name)}/\w+/", "", text)

    def server_close(self) -> None:
        super().server_close()
        for visit in self._visits.values():
            visit.close()
        self._folder.cleanup()


class _Request(BaseHTTPRequestHandler):
    """One request."""

    server_version, sys_version = "edgetam", ""
    timeout = 60
    """Seconds that a visitor may be silent while sending."""

    @property
    def app(self) -> AppServer:
        return cast(AppServer, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, work: Any) -> None:
        """Do it; what goes wrong is said in a sentence where that can still be done."""
        try:
            work(*urlsplit(self.path).path.strip("/").split("/"))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass  # the visitor has gone
        except ValueError as error:
            self._json({"error": self.app.sentence(error)}, error.status if isinstance(error, Refused) else 400)
        except Exception as error:  # noqa: BLE001  (a server answers; the terminal has the whole story)
            traceback.print_exc()
            self._json({"error": f"The server failed ({type(error).__name__}: {error}); its terminal says more."}, 500)

    # ------------------------------------------------------------------ what is asked for

    def _get(self, *path: str) -> None:
        match path:
            case ("",):
                self._bytes(self.app.page().encode(), "text/html; charset=utf-8", {"Content-Security-Policy": POLICY})
            case ("visit", key):
                self._json(self.app.visit(key).state())
            case ("visit", key, "frame", number) if number.isdigit():
                self._bytes(self.app.visit(key).picture(int(number)), "image/jpeg")
            case ("visit", key, "coco"):
                visit = self.app.visit(key)
                content = json.dumps(visit.coco()).encode()
                self._bytes(content, "application/json", _download(f"{visit.name}_coco.json"))
            case ("visit", key, "film" | "masks" as what):
                self._file(self.app.visit(key), what)
            case _:
                raise Refused(404, f"There is nothing at {self.path}.")

    def _post(self, *path: str) -> None:
        self._refuse_other_pages()
        match path:
            case ("open",):
                self._open(self._uploaded())
            case ("example",):
                self._open(example_clip.FRAMES)
            case ("visit", key, what):
                self._change(self.app.visit(key), what)
            case _:
                raise Refused(404, f"There is nothing at {self.path}.")

    def _open(self, path: Path) -> None:
        key, visit = self.app.open(path)
        self._json({"visit": key, "state": visit.state()})

    def _change(self, visit: Visit, what: str) -> None:
        match what:
            case "prompt":
                asked = self._asked()
                visit.prompt(_whole(asked, "object"), _whole(asked, "frame"), _prompts(asked, visit.frames.size))
            case "remove":
                visit.remove(_whole(self._asked(), "object"))
            case "undo" | "reset" | "stop":
                getattr(visit, what)()
            case "track":
                self._lines(visit, visit.track(backwards=bool(self._asked().get("backwards"))))
                return
            case _:
                raise Refused(404, f"There is nothing at {self.path}.")
        self._json(visit.state())

    def _refuse_other_pages(self) -> None:
        """A page of another host, open in the same browser, is not to work this server."""
        origin = self.headers.get("Origin")
        if origin and urlsplit(origin).netloc != self.headers.get("Host"):
            raise Refused(403, f"This was asked by a page of {origin}; only the app's own page may.")

    # ------------------------------------------------------------------ what comes in

    def _length(self, limit: int, too_much: str) -> int:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise Refused(411, "The request does not say how many bytes it has; send Content-Length.")
        if int(length) > limit:
            raise Refused(413, too_much)
        return int(length)

    def _asked(self) -> Mapping[str, Any]:
        length = self._length(_SMALL, "The request is too long.")
        try:
            asked = json.loads(self.rfile.read(length) or b"{}")
        except ValueError as error:
            raise Refused(400, f"The request is no JSON ({error}).") from error
        if not isinstance(asked, dict):
            raise Refused(400, "The request is no JSON object.")
        return asked

    def _uploaded(self) -> Path:
        """The body as a file under the name that was given; nothing is read of a body that is too long."""
        limit = self.app.upload_mib
        given = self.headers.get("Content-Length", "0")
        size = f"{int(given) / 2**20:,.0f} MiB" if given.isdigit() else "This"
        left = self._length(
            limit << 20, f"{size} is more than this page takes ({limit} MiB); start it with a larger --upload-limit."
        )
        if not left:
            raise Refused(400, "The video is empty (0 bytes).")
        folder = self.app.new_folder()
        (name,) = parse_qs(urlsplit(self.path).query).get("name", ["video"])[:1]
        path = folder / (Path(name.replace("\\", "/")).name[-100:].lstrip(".") or "video")
        try:
            with path.open("wb") as file:
                while left and (part := self.rfile.read(min(left, _CHUNK))):
                    left -= file.write(part)
            if left:
                raise Refused(400, f"{path.name} came in part: {left} bytes are missing. Send it again.")
            return path
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    # ------------------------------------------------------------------ what goes out

    def _lines(self, visit: Visit, frames: Iterator[int]) -> None:
        """Frame numbers as they come; a visitor who goes away ends the tracking."""
        self.send_response(200)
        self._headers({"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        try:
            for t in frames:
                self._line({"frame": t})
            self._line({"state": visit.state()})
        except ValueError as error:  # a damaged frame; the head has been sent
            self._line({"error": self.app.sentence(error), "state": visit.state()})
        finally:
            cast(Any, frames).close()

    def _line(self, values: Mapping[str, Any]) -> None:
        self.wfile.write(json.dumps(values).encode() + b"\n")
        self.wfile.flush()

    def _file(self, visit: Visit, what: str) -> None:
        folder = self.app.new_folder()
        try:
            path = visit.film(folder) if what == "film" else visit.masks(folder)
            kind = "video/mp4" if what == "film" else "application/zip"
            self.send_response(200)
            self._headers({"Content-Type": kind, "Content-Length": str(path.stat().st_size), **_download(path.name)})
            with path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _json(self, values: Mapping[str, Any], status: int = 200) -> None:
        self._bytes(json.dumps(values).encode(), "application/json", status=status)

    def _bytes(self, content: bytes, kind: str, more: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        self.send_response(status)
        self._headers({
            "Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store", **(more or {})
        })  # fmt: skip
        self.wfile.write(content)

    def _headers(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for errors."""


def _prompts(asked: Mapping[str, Any], size: tuple[int, int]) -> UserPrompts:
    """Points and box of a request, checked."""
    try:
        return parse_prompts(asked.get("points") or (), asked.get("labels"), asked.get("box"), None, size=size)
    except TypeError as error:
        raise Refused(400, f"Points are [[x, y], ...], labels [1, 0, ...], a box [x0, y0, x1, y1]: {error}.") from error


def _whole(asked: Mapping[str, Any], name: str) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(400, f"{name} is {value!r}; expected a whole number.")
    return value


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
