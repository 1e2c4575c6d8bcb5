"""target=web: a page, its client in plain JavaScript and onnxruntime-web beside the ONNX parts, for any static server.

The page asks no host but its own. The client (`templates/web`) plays the manifest as `client.py` does; style, colours and
the layout of saved masks are those of `edgetam app`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.extras import Finding
from edgetam_pl.interactive import example_clip
from edgetam_pl.io import shipped
from edgetam_pl.io.atomic import write_json
from edgetam_pl.io.label_png import davis_palette
from edgetam_pl.io.overlay import COLOURS

WEB = "web"
"""Value of `target=`."""
PACKAGE, TRIED = "onnxruntime-web", "1.30"
"""What the browser needs, and the version that was tried."""
PAGE, RUNTIME, EXAMPLE = "page.json", "ort", "example"
"""The page's settings, and the folders of onnxruntime-web and of the example clip."""

_RUNTIME_FILES = (
    "ort.webgpu.min.mjs",  # WebGPU: calls the asyncify build
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.min.mjs",  # WebAssembly alone, half the size
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
EXAMPLE_RATE = 25
USAGE = """## In a browser

Serve this folder by any static server and open it; it asks no other host. `edgetam app --web DIR` serves it with the headers
`Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`, which give WebAssembly its
threads; without them the page says so and uses one. `session.js` and `bank.js` are the loop, for a page of your own.
"""
"""The section of the packages' README."""


def check(cfg: ExportConfig) -> Path:
    """The folder of onnxruntime-web's files, once what target=web needs is there.

    Raises:
        ValueError: another format or precision, or no onnxruntime-web that serves.
    """
    if cfg.backend != "onnx":
        raise ValueError(f"target={WEB} runs ONNX parts in the browser, and backend is {cfg.backend}; give backend=onnx.")
    if cfg.precision == "fp16":
        raise ValueError(f"precision=fp16 is not for target={WEB}: WebAssembly has no half precision; give precision=fp32.")
    return runtime_folder(cfg.ort_web)


def runtime_folder(given: str = "") -> Path:
    """Folder of onnxruntime-web's files: of the package at `given`, or else of the one that node would find from here.

    Raises:
        ValueError: it is not there, or lacks a file.
    """
    cure = f"run `npm install {PACKAGE}` here, or give ort_web=FOLDER, where the package lies"
    places = [Path(given)] if given else [folder / PACKAGE for folder in _node_folders()]
    package = next((place for place in places if place.is_dir()), None)
    if package is None:
        raise ValueError(f"{PACKAGE} is not {f'at {given}' if given else 'in any node_modules'}; {cure}.")
    folder = package / "dist" if (package / "dist").is_dir() else package
    if missing := [name for name in _RUNTIME_FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; target={WEB} takes the files of {PACKAGE} {TRIED}, and other versions "
            f"may name them otherwise: {cure}."
        )
    return folder


def finding() -> Finding:
    """What `edgetam doctor` should know about onnxruntime-web."""
    try:
        folder = runtime_folder()
    except ValueError as error:
        return Finding(
            PACKAGE, "missing", f"{error} It is looked for beside, above, in NODE_PATH, and in npm's folder", (WEB,)
        )
    described = folder.parent / "package.json"
    version = json.loads(described.read_text("utf-8")).get("version", "") if described.is_file() else ""
    return Finding(PACKAGE, "ok", f"{version} in {folder}".strip())


def _node_folders() -> list[Path]:
    """Where node looks for packages: beside the working directory and above, NODE_PATH, and npm's global folder."""
    here = Path.cwd()
    folders = [folder / "node_modules" for folder in (here, *here.parents)]
    folders += [Path(entry) for entry in os.environ.get("NODE_PATH", "").split(os.pathsep) if entry]
    if npm := shutil.which("npm"):
        told = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, timeout=60, check=False)
        folders += [Path(told.stdout.strip())] if told.returncode == 0 and told.stdout.strip() else []
    return folders


def write_page(folder: Path, runtime: Path, cfg: ExportConfig) -> None:
    """Put the page, the client, onnxruntime-web and the example clip beside packages and their manifest."""
    client = files("edgetam_pl.exporting").joinpath("templates/web")
    for entry in client.iterdir():
        (folder / entry.name).write_bytes(entry.read_bytes())
    for name in ("app.css", "drawing.js"):  # as in edgetam app
        (folder / name).write_bytes(files("edgetam_pl.interactive").joinpath("templates", name).read_bytes())
    (folder / RUNTIME).mkdir()
    for name in _RUNTIME_FILES:
        shutil.copyfile(runtime / name, folder / RUNTIME / name)
    shutil.copytree(example_clip.FRAMES, folder / EXAMPLE)
    shutil.copyfile(shipped.EXAMPLE / "ATTRIBUTION.md", folder / EXAMPLE / "ATTRIBUTION.md")
    is_shipped = cfg.weights == str(shipped.WEIGHTS)
    if is_shipped:
        shutil.copyfile(shipped.CARD, folder / "weights.md")
    settings = {
        "model": cfg.model.name,
        "note": "Weights: the shipped tracker, CC BY-NC 4.0 (weights.md)." if is_shipped else "",
        "colours": COLOURS,
        "palette": list(davis_palette()),
        "example": {
            "name": example_clip.CLIP,
            "rate": EXAMPLE_RATE,
            "files": [f"{EXAMPLE}/{path.name}" for path in sorted(example_clip.FRAMES.glob("*.jpg"))],
        },
    }
    write_json(folder / PAGE, settings, indent=None)


def is_page(folder: Path) -> bool:
    """Has target=web written this folder?"""
    try:
        return "colours" in json.loads((folder / PAGE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
