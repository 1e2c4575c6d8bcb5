"""A server for a folder of target=web that sends the headers which give the page its threads; standard library only.

Any other static server serves the folder as well; without these headers the page says so and uses one thread.
"""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgetam_pl.exporting.web import is_page

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",  # a browser asks whether a file has changed, as after another export
}
"""With the first two a browser gives the page SharedArrayBuffer, which threads of WebAssembly need."""


class PageServer(ThreadingHTTPServer):
    """Serves a folder that `edgetam export target=web` has written. Use as a context.

    Args:
        address: (host, port); port 0 is any that is free.
        folder: what was given as `out=`.
        headers: sent with every file.

    Raises:
        ValueError: no such folder.
        OSError: the address cannot be served on.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], folder: Path, *, headers: dict[str, str] = HEADERS) -> None:
        if not is_page(folder):
            raise ValueError(
                f"{folder} holds no page; write one with: edgetam export weights=FILE backend=onnx target=web out={folder}"
            )
        super().__init__(address, partial(_Request, directory=str(folder), headers=headers))

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"


class _Request(SimpleHTTPRequestHandler):
    """One request."""

    extensions_map = {  # noqa: RUF012  (as the standard library declares it)
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
    }

    def __init__(self, *args: Any, headers: dict[str, str], **more: Any) -> None:
        self.extra = headers
        super().__init__(*args, **more)

    def end_headers(self) -> None:
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for errors."""
