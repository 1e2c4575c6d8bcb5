"""target=web: the folder, its server, and its page in a browser, whose masks are those of the Python client."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import export, tiny
from numpy.typing import NDArray
from runtime_specs import loop
from web_pages import CHROMIUM, Visitor, served

from edgetam_pl.commands.main import main
from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import web
from edgetam_pl.exporting.client import PackagedTracker, RingBank, pack
from edgetam_pl.exporting.manifest import RuntimeSpec, read
from edgetam_pl.exporting.run import suitable
from edgetam_pl.interactive.example_clip import example_clip
from edgetam_pl.io.video import VideoWriter
from edgetam_pl.tracking.frame_tracker import resized_frame
from edgetam_pl.tracking.prompters import no_prompt, prompt_at_once
from edgetam_pl.tracking.step import step
from edgetam_pl.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Memory, Prompts

VIEW = {"width": 1280, "height": 900}
CLIENT = Path(web.__file__).parent / "templates" / "web"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder without a model, and with empty files in the place of onnxruntime-web."""
    runtime, folder = tmp_path_factory.mktemp("ort"), tmp_path_factory.mktemp("page")
    for name in web._RUNTIME_FILES:
        (runtime / name).touch()
    web.write_page(folder, runtime, ExportConfig(model=tiny(), backend="onnx", target="web"))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome is installed")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


# --- the folder -----------------------------------------------------------------------------------------------------------


def test_other_formats_and_half_precision_are_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"target=web runs ONNX parts .*, and backend is coreml; give backend=onnx"):
        web.check(ExportConfig(model=tiny(), target="web"))
    with pytest.raises(ValueError, match="WebAssembly has no half precision; give precision=fp32"):
        web.check(ExportConfig(model=tiny(), target="web", backend="onnx", precision="fp16"))


def test_without_onnxruntime_web_the_export_says_how_to_get_it_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.setenv("PATH", "")  # no npm
    cfg = ExportConfig(model=tiny(), backend="onnx", target="web")
    with pytest.raises(ValueError, match="not in any node_modules; run `npm install onnxruntime-web` here, or give ort"):
        suitable(cfg, tmp_path / "out")
    cfg.ort_web = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"onnxruntime-web is not at .*nowhere; run"):
        suitable(cfg, tmp_path / "out")
    cfg.ort_web = str(tmp_path)
    with pytest.raises(ValueError, match=r"lacks ort\.webgpu\.min\.mjs, .*target=web takes the files of onnxruntime-web"):
        suitable(cfg, tmp_path / "out")


def test_onnxruntime_web_is_found_where_node_would_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    package.mkdir(parents=True)
    for name in web._RUNTIME_FILES:
        (package / name).touch()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert web.runtime_folder() == package
    assert web.runtime_folder(str(package.parent)) == package
    assert web.runtime_folder(str(package)) == package


def test_the_client_names_no_host_and_the_page_allows_none() -> None:
    texts = {path.name: path.read_text("utf-8") for path in CLIENT.iterdir()}
    assert "index.html" in texts
    for name, text in texts.items():
        assert "://" not in text, name
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', texts["index.html"])
    assert policy.startswith("default-src 'self';")


def test_the_folder_holds_all_that_its_files_name(bare: Path) -> None:
    settings = json.loads((bare / web.PAGE).read_text("utf-8"))
    assert len(settings["example"]["files"]) == 60
    named = {*settings["example"]["files"], "example/ATTRIBUTION.md"}
    for path in bare.glob("*.js"):
        named |= set(re.findall(r"(?:from '|URL\(')\./([\w./]+)'", path.read_text("utf-8")))
    named |= set(re.findall(r'(?:src|href)="([\w./]+)"', (bare / "index.html").read_text("utf-8")))
    assert {"app.css", "worker.js", "bank.js"} <= named
    assert not [name for name in named if not (bare / name).exists()]


# --- the server -----------------------------------------------------------------------------------------------------------


def test_the_server_sends_what_threads_need_and_the_types_that_modules_need(bare: Path) -> None:
    wasm = "ort-wasm-simd-threaded.wasm"
    with served(bare) as url:
        found = {}
        for path in ("/", "/page.js", "/ort/ort.wasm.min.mjs", f"/ort/{wasm}", "/example/", "/../page.json"):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            found[path] = (answer.status, answer.headers.get_content_type())
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            connection.close()
    assert found["/"] == (200, "text/html")
    assert found["/page.js"] == found["/ort/ort.wasm.min.mjs"] == (200, "text/javascript")
    assert found[f"/ort/{wasm}"] == (200, "application/wasm")
    assert found["/example/"][0] == 404


def test_the_command_refuses_a_folder_without_a_page_and_a_second_model(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--web", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no page; write one with: edgetam export" in capsys.readouterr().err
    assert main(["app", "--web", str(bare), "--weights", "random"]) == 2
    assert "leave out --model and --weights" in capsys.readouterr().err


# --- the client's modules -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(browser: Any, bare: Path) -> Iterator[Visitor]:
    """The client's modules in a browser; there is no model to load."""
    with served(bare) as url:
        yield Visitor(browser.new_page(), url)


def test_a_folder_without_its_model_says_what_is_missing(modules: Visitor) -> None:
    modules.until(lambda: modules.text("load-error"))
    assert modules.text("load-error").startswith("The model cannot be loaded: manifest.json is not there (404)")


def _memory(spec: RuntimeSpec, value: float) -> Memory:
    tokens = torch.full((1, spec.tokens, spec.memory_dim), value)
    return Memory(tokens, torch.zeros_like(tokens), torch.full((1, spec.dim), value), spec.memory_grid)


def _read(inputs: dict[str, Any], spec: RuntimeSpec) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]], int]:
    """What TrackStep sees of a bank whose memories hold the number of their frame: order has no meaning, nor have unused
    slots."""
    first = {name: np.asarray(inputs[name], dtype=float).ravel() for name in inputs}
    memories = first["memory"].reshape(spec.num_memories, -1)[:, 0]
    pointers = first["obj_ptrs"].reshape(spec.num_pointers, -1)[:, 0]
    ages, valid, distances = first["memory_age"], first["obj_ptr_valid"], first["obj_ptr_age"]
    seen = sorted(zip(ages[ages >= 0], memories[ages >= 0]))
    return seen, sorted(zip(distances[valid > 0], pointers[valid > 0])), int((ages == -1).sum())


def test_the_bank_reads_what_the_python_client_reads(modules: Visitor) -> None:
    """Frames in any order, prompted or not, written again and again: eviction, ages, padding and pointers."""
    spec = loop(num_memories=3, num_pointers=5, recent_memories=4, recent_pointers=4, pointer_ages=True)
    draw = random.Random(0)
    writes = [[draw.randrange(14), draw.random() < 0.25] for _ in range(60)]
    found = modules.module(
        "bank.js",
        """const [loop, writes] = given;
        let bank = new m.Bank(loop);
        return writes.map(([t, prompted]) => {
          const before = JSON.stringify(bank);
          const next = bank.stored(t, prompted, Array(loop.tokens * loop.memory_dim).fill(t), Array(loop.dim).fill(t));
          const same = JSON.stringify(bank) === before;
          bank = next;
          const plain = at => Object.fromEntries(Object.entries(bank.inputs(at)).map(([name, x]) => [name, [...x]]));
          return {same, inputs: [0, 3, 8, 14].map(plain)};
        });""",
        asdict(spec),
        writes,
    )
    bank, most = RingBank(spec), 0
    for (t, prompted), each in zip(writes, found, strict=True):
        bank = bank.write(t, _memory(spec, t), prompted=prompted)
        assert each["same"]  # a bank is never changed
        for at, inputs in zip((0, 3, 8, 14), each["inputs"], strict=True):
            expected = _read(cast(dict[str, Any], pack(bank.recall(at), 0, spec)), spec)
            assert _read(inputs, spec) == expected
            most = max(most, len(expected[0]))
    assert most == 3  # full banks were among them


@pytest.mark.parametrize(("width", "height", "side"), [(30, 20, 16), (12, 9, 32), (17, 40, 24)])
def test_frames_are_resized_as_for_the_python_client(modules: Visitor, width: int, height: int, side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgba = np.concatenate((frame, np.full((height, width, 1), 255, np.uint8)), axis=2)
    found = modules.module("pixels.js", "return [...m.resized(...given)];", rgba.ravel().tolist(), width, height, side)
    assert found == resized_frame(frame, side).numpy().ravel().tolist()


def test_masks_are_enlarged_as_for_the_python_client(modules: Visitor) -> None:
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = [{"number": number, "logits": each.flatten().tolist()} for number, each in zip((2, 5), logits)]
    found = modules.module("pixels.js", "return [...m.labelMap(...given)];", answers, 8, 30, 19)
    large = F.interpolate(logits, (19, 30), mode="bilinear", align_corners=False)[:, 0]
    best, winner = large.max(dim=0)
    expected = torch.where(best > 0, torch.tensor((2, 5))[winner], 0).flatten().tolist()
    assert found == expected


# --- the page with a model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, exported with target=web; EDGETAM_WEB_SITE names another folder to be tried instead."""
    if ready := os.environ.get("EDGETAM_WEB_SITE"):
        return Path(ready)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    try:
        web.runtime_folder()
    except ValueError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("web") / "site"
    export(ExportConfig(model=tiny(), backend="onnx", target="web", gate=GateConfig(frames=4, short_frames=4)), out)
    return out


@pytest.fixture(scope="module")
def visitor(browser: Any, folder: Path) -> Iterator[Visitor]:
    with served(folder) as url:
        visitor = Visitor(browser.new_page(viewport=VIEW), url)
        visitor.idle()
        yield visitor
        assert visitor.failures == []
        assert visitor.hosts == {url.removeprefix("http://")}  # no other host was asked


def python_masks(folder: Path, frames: NDArray[np.uint8], prompts: Prompts) -> list[NDArray[np.bool_]]:
    """The masks (H, W) of one object by the Python client; prompts are in pixels of the video, on frame 0."""
    from edgetam_pl.exporting.onnx import OnnxProgram

    manifest = read(folder)
    spec, (height, width) = manifest.loop, frames.shape[1:3]
    tracker = PackagedTracker({part.role: OnnxProgram(folder / part.file) for part in manifest.parts}, spec)
    assert prompts.points is not None
    scaled = prompts._replace(points=prompts.points * torch.tensor((spec.size / width, spec.size / height)))
    bank, masks = RingBank(spec), []
    for t, frame in enumerate(frames):
        features = tracker.encode(resized_frame(frame, spec.size))
        output, bank = step(tracker, bank, features, t, no_prompt if t else prompt_at_once(scaled))
        large = F.interpolate(output.final.best, (height, width), mode="bilinear", align_corners=False)
        masks.append((large[0, 0] > 0).numpy())
    return masks


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def prompt_of(points: list[tuple[float, float]], labels: list[int]) -> Prompts:
    return Prompts(torch.tensor([points], dtype=torch.float32), torch.tensor([labels]))


def test_a_click_on_the_example_gives_the_masks_of_the_python_client(visitor: Visitor, folder: Path, tmp_path: Path) -> None:
    assert visitor.page.evaluate("crossOriginIsolated")
    assert "One thread only" not in visitor.text("notes")
    visitor.do("example")
    assert visitor.text("title") == "chair: 60 frames, 300 x 200"
    clip = example_clip()
    place = visitor.click(*clip.click)
    visitor.page.click("#track")
    visitor.until(lambda: visitor.text("progress").startswith(tuple(f"{n} of" for n in range(32, 60))))
    visitor.page.click("#stop")
    visitor.idle()
    assert re.fullmatch(r"\d+ of 60 frames, \d+\.\d frames per second", visitor.text("progress"))
    found = visitor.masks(tmp_path)
    assert len(found) >= 32
    expected = python_masks(folder, clip.frames[:32], prompt_of([place], [FOREGROUND]))
    assert all(0.005 < mask.mean() < 0.99 for mask in expected)  # masks that say something
    assert min(iou(found[t] == 1, expected[t]) for t in range(32)) > 0.99


def test_a_box_and_a_second_object_and_undo(visitor: Visitor, folder: Path, tmp_path: Path) -> None:
    """Two objects through pictures from the disk: the box means what it means to the Python client; undo."""
    clip = example_clip()
    visitor.choose(*sorted(clip.folder.glob("*.jpg"))[:6])
    assert visitor.text("title") == "00000.jpg: 6 frames, 300 x 200"
    box = visitor.drag(90, 50, 180, 150)
    visitor.page.click("#new")
    visitor.click(40, 150)
    visitor.click(250, 40, off=True)
    assert visitor.page.locator("#objects li").count() == 2
    visitor.do("undo")
    visitor.do("undo")
    assert visitor.page.locator("#objects li button").count() == 1
    visitor.click(40, 150)
    visitor.do("track")
    assert visitor.text("progress").startswith("6 of 6 frames, ")
    found = visitor.masks(tmp_path)
    assert sorted(found) == list(range(6))
    assert {1, 2} <= set(np.unique(np.stack(list(found.values()))))
    expected = python_masks(folder, clip.frames[:6], prompt_of([*box], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]))
    for t, labels in found.items():  # where object 2 does not cover it
        mine = expected[t] & (labels != 2)
        assert iou(labels == 1, mine) > 0.99
    visitor.do("play")
    assert visitor.text("number") == "5"


def test_a_correction_of_a_tracked_frame_is_a_prompt_with_memory(visitor: Visitor) -> None:
    """Another click on a tracked frame changes the answer there, and tracking again goes on from it."""
    visitor.choose(*sorted(example_clip().folder.glob("*.jpg"))[:4])
    visitor.click(130, 90)
    visitor.do("track")
    assert visitor.text("number") == "3"
    visitor.click(60, 60, off=True)
    assert visitor.text("object-error") == ""
    visitor.do("track")
    assert visitor.text("progress").startswith("4 of 4 frames")
    for n in range(8):
        visitor.click(100 + n, 90)
    assert "9 points and box corners on one frame; the programs have 8 slots" in visitor.text("object-error")


def test_a_video_of_ones_own_and_files_that_are_none(visitor: Visitor, tmp_path: Path) -> None:
    film = tmp_path / "own.mp4"
    frames = np.zeros((6, 64, 96, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:, : 12 * (t + 1)] = 255
    with VideoWriter(film, size=(64, 96)) as writer:  # 25 frames a second
        for frame in frames:
            writer.write(frame)
    visitor.choose(film)
    if "cannot be decoded as a video by this browser" in visitor.text("open-error"):
        pytest.skip("this browser does not decode H.264")
    assert visitor.text("title") == "own.mp4: 6 frames, 96 x 64"
    for t in (0, 4, 2):  # the frame that is shown is the frame of that number
        visitor.page.evaluate("t => { const time = document.getElementById('time'); time.value = t; time.oninput(); }", t)
        visitor.until(lambda t=t: visitor.text("number") == str(t))
        visitor.idle()
        script = "() => [...document.getElementById('frame').getContext('2d').getImageData(0, 32, 96, 1).data]"
        bright = np.array(visitor.page.evaluate(script)).reshape(96, 4)[:, 0] > 127
        assert bright.sum() == 12 * (t + 1)

    broken = tmp_path / "notes.mp4"
    broken.write_bytes(b"no film")
    visitor.choose(broken)
    assert visitor.text("open-error").startswith("notes.mp4 cannot be decoded as a video by this browser")
    assert visitor.text("title") == "own.mp4: 6 frames, 96 x 64"  # what was open stays open
    visitor.choose(film, broken)
    assert visitor.text("open-error") == "Choose one video, or pictures only."


def test_pictures_of_other_sizes_are_refused(visitor: Visitor, tmp_path: Path) -> None:
    from PIL import Image

    for t, size in enumerate([(64, 48), (64, 48), (32, 48)]):
        Image.new("RGB", size).save(tmp_path / f"{t}.png")
    visitor.choose(*sorted(tmp_path.glob("*.png")))
    visitor.click(20, 20)
    visitor.do("track")
    assert visitor.text("track-error") == "Frame 2 is 32 x 48, the first one 64 x 48; a video has frames of one size."


def test_a_server_without_the_headers_costs_threads_and_the_page_says_so(browser: Any, folder: Path) -> None:
    with served(folder, {}) as url:
        visitor = Visitor(browser.new_page(viewport=VIEW), url)
        visitor.idle()
        assert visitor.text("load-error") == ""
        assert visitor.text("device").endswith("WebAssembly, 1 thread.")
        assert "One thread only: this server does not send the headers Cross-Origin-Opener-Policy" in visitor.text("notes")
        visitor.do("example")
        visitor.click(130, 90)
        assert visitor.page.is_enabled("#track")
        assert visitor.failures == []


def test_a_browser_without_shared_memory_uses_one_thread_and_the_page_says_so(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    site = shutil.copytree(folder, tmp_path / "site", copy_function=os.link)
    (site / "worker.js").unlink()
    (site / "worker.js").write_text("delete globalThis.SharedArrayBuffer;\n" + (folder / "worker.js").read_text("utf-8"))
    with served(site) as url:
        visitor = Visitor(browser.new_page(viewport=VIEW), url)
        visitor.idle()
        assert visitor.text("load-error") == ""
        assert visitor.text("device").endswith("WebAssembly, 1 thread.")
        assert "One thread only: this browser has no SharedArrayBuffer" in visitor.text("notes")
        visitor.do("example")
        visitor.click(130, 90)
        assert visitor.page.is_enabled("#track")
        assert visitor.failures == []


def test_the_doctor_says_where_onnxruntime_web_is_or_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.setenv("PATH", "")  # no npm
    missing = web.finding()
    assert (missing.what, missing.state, missing.needed_for) == ("onnxruntime-web", "missing", ("web",))
    assert "run `npm install onnxruntime-web` here" in missing.message
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    for name in web._RUNTIME_FILES:
        (package / "dist" / name).touch()
    (package / "package.json").write_text('{"version": "1.30.0"}')
    assert web.finding() == ("onnxruntime-web", "ok", f"1.30.0 in {package / 'dist'}", ())
