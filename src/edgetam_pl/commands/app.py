"""`edgetam app`: a web page on this machine to click on a video and watch it being followed (`interactive/server.py`).

With --web it serves a folder whose page tracks in the browser instead (`exporting/web.py`).
"""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Callable
from pathlib import Path

import torch

from edgetam_pl.commands.track import add_model_flags, load_tracker
from edgetam_pl.config.choices import Flags
from edgetam_pl.exporting.web_server import PageServer
from edgetam_pl.interactive.server import UPLOAD_MIB, AppServer
from edgetam_pl.io import shipped

SHIPPED = (
    f"The model is {shipped.NAME}, the small tracker that comes with the package (CC BY-NC 4.0); --weights edgetam, the "
    "official weights, are more accurate."
)
"""What the page says of the shipped weights."""


def main(argv: list[str]) -> int:
    """Serve the page until interrupted; returns the exit status.

    Raises:
        ValueError: weights of another model, none where the package holds none, a folder without a page, or an address that
            cannot be served on.
    """
    args = _parser().parse_args(argv)
    if args.web:
        if args.model or args.weights:
            raise ValueError("--web DIR serves the model that the folder holds; leave out --model and --weights.")
        return _serve(args, lambda at: PageServer(at, args.web))
    if args.upload_limit < 1:
        raise ValueError(f"--upload-limit is {args.upload_limit}; it is a number of MiB, at least 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    model, weights = shipped.resolve(args.model, args.weights)
    tracker = load_tracker(model, weights, device=args.device)
    note = SHIPPED if weights == str(shipped.WEIGHTS) else f"Weights: {Path(weights).name}{f' ({model})' if model else ''}."
    return _serve(args, lambda at: AppServer(at, tracker, device=args.device, note=note, upload_mib=args.upload_limit))


def _serve(args: argparse.Namespace, server_at: Callable[[tuple[str, int]], AppServer | PageServer]) -> int:
    """Serve until interrupted."""
    try:
        server = server_at((args.host, args.port))
    except (OSError, OverflowError) as error:
        raise ValueError(f"{args.host}:{args.port} cannot be served on ({error}); give another --port or --host.") from error
    with server:
        print(f"The page is at {server.url} (Ctrl-C ends it).", flush=True)
        if args.browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Flags(prog="edgetam app", description="A local web page to click on a video and watch it track.")
    add_model_flags(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU (default: PyTorch's choice)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on (default: 7860)")
    parser.add_argument(
        "--upload-limit", type=int, default=UPLOAD_MIB, metavar="MIB", help=f"largest video (default: {UPLOAD_MIB} MiB)"
    )
    parser.add_argument(
        "--web", type=Path, metavar="DIR", help="serve this folder of `edgetam export backend=onnx target=web` instead"
    )
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    return parser
