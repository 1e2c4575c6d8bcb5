"""The app over HTTP: each request as a browser makes it, and every mistake answered with a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_pages import Browser, serving, write_clip

from edgetam_pl.interactive import server as server_module
from edgetam_pl.interactive.server import POLICY, AppServer

ON = {"object": 1, "frame": 0, "points": [[40, 30]], "labels": [1]}


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(note="Weights: the <toy>.", upload_mib=1) as running:
        yield running


@pytest.fixture
def browser(server: AppServer, tmp_path: Path) -> Browser:
    """With a clip open."""
    asking = Browser(server)
    assert asking.open(write_clip(tmp_path / "cow.mp4")) == {
        "name": "cow", "frames": 5, "width": 96, "height": 64, "objects": [], "tracking": False
    }  # fmt: skip
    return asking


def lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def test_the_page_says_what_model_it_is_and_asks_no_other_host(server: AppServer) -> None:
    reply = Browser(server).get("/")
    page = reply.content.decode()
    assert "Weights: the &lt;toy&gt;." in page
    assert "Up to 1 MiB" in page
    assert not re.findall(r"(?:src|href|url\(|fetch\()\W{0,2}(?:https?:)?//", page)
    assert reply.headers["Content-Security-Policy"] == POLICY
    assert "http" not in POLICY


def test_prompt_track_and_save(browser: Browser) -> None:
    state = browser.do("prompt", **ON).values
    assert [one["number"] for one in state["objects"]] == [1]
    reply = browser.do("track")
    assert [line.get("frame") for line in lines(reply.content)] == [0, 1, 2, 3, 4, None]
    assert lines(reply.content)[-1]["state"]["tracking"] is False
    assert browser.see("frame/4").content[:2] == b"\xff\xd8"
    names = {what: browser.see(what).headers["Content-Disposition"] for what in ("film", "masks", "coco")}
    assert names == {
        "film": "attachment; filename*=UTF-8''cow_tracked.mp4",
        "masks": "attachment; filename*=UTF-8''cow_masks.zip",
        "coco": "attachment; filename*=UTF-8''cow_coco.json",
    }
    assert len(browser.see("coco").values["images"]) == 5
    assert browser.see("nothing").status == 404
    assert browser.get(f"/visit/{browser.visit}").values["objects"] == state["objects"], "a page that is loaded again"


def test_a_box_a_deletion_an_undo_and_a_new_start(browser: Browser) -> None:
    browser.do("prompt", **ON)
    browser.do("prompt", object=2, frame=0, box=[10, 10, 60, 50])
    assert [one["number"] for one in browser.do("remove", object=1).values["objects"]] == [2]
    assert [one["number"] for one in browser.do("undo").values["objects"]] == [1, 2]
    assert browser.do("reset").values["objects"] == []


def test_frames_come_as_they_are_tracked_and_the_visitor_stops_it(browser: Browser) -> None:
    browser.do("prompt", **ON)
    connection = browser.connection()
    connection.request("POST", f"/visit/{browser.visit}/track", b"{}")
    reply = connection.getresponse()
    assert json.loads(reply.readline()) == {"frame": 0}
    browser.do("stop")
    rest = lines(reply.read())
    connection.close()
    assert "state" in rest[-1]
    assert browser.get(f"/visit/{browser.visit}").values["tracking"] is False
    assert browser.do("undo").status == 200, "what changes the video is possible again"


@pytest.mark.parametrize(
    ("what", "values", "sentence"),
    [
        ("track", {}, "nothing to follow yet"),
        ("undo", {}, "nothing to undo"),
        ("remove", {"object": 7}, "no object 7"),
        ("prompt", {"object": 0, "frame": 0, "points": [[1, 1]]}, "number is 0"),
        ("prompt", {"object": 255, "frame": 0, "points": [[1, 1]]}, "Object 255 is one too many"),
        ("prompt", {"object": "1", "frame": 0, "points": [[1, 1]]}, "object is '1'; expected a whole number"),
        ("prompt", {"object": 1, "frame": 9, "points": [[1, 1]]}, "no frame 9; frames are numbered from 0 to 4"),
        ("prompt", {"object": 1, "frame": 0, "points": [[500, 1]]}, "outside the 96 x 64 frame"),
        ("prompt", {"object": 1, "frame": 0, "box": [5, 5, 5, 5]}, "no area"),
        ("prompt", {"object": 1, "frame": 0, "points": 3}, "Points are"),
        ("prompt", {"object": 1, "frame": 0}, "No prompt was given"),
        ("dance", {}, "There is nothing at"),
    ],
)
def test_a_mistake_is_a_sentence(browser: Browser, what: str, values: dict[str, Any], sentence: str) -> None:
    reply = browser.do(what, **values)
    assert 400 <= reply.status < 500
    assert sentence in reply.values["error"]


@pytest.mark.parametrize("body", [b"no json", b"[1]"])
def test_a_request_that_is_no_object_is_refused(browser: Browser, body: bytes) -> None:
    reply = browser.post(f"/visit/{browser.visit}/prompt", body)
    assert reply.status == 400
    assert "is no JSON" in reply.values["error"]


def test_an_upload_that_is_no_video_is_named_as_the_visitor_knows_it(server: AppServer) -> None:
    reply = Browser(server).post("/open?name=..%2F..%2Ftax%20return.mp4", b"some text" * 50)
    assert reply.status == 400
    assert reply.values["error"].startswith("tax return.mp4 cannot be decoded as a video")
    assert "/tmp" not in reply.values["error"]
    assert Browser(server).post("/open?name=a.mp4", b"").values["error"] == "The video is empty (0 bytes)."


def test_too_large_an_upload_is_refused_before_it_is_read(server: AppServer) -> None:
    connection = Browser(server).connection()
    connection.putrequest("POST", "/open?name=long.mp4")
    connection.putheader("Content-Length", str(5 << 20))
    connection.endheaders()  # and not a byte of the body
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.loads(reply.read())["error"] == (
        "5 MiB is more than this page takes (1 MiB); start it with a larger --upload-limit."
    )
    connection.close()


def test_an_upload_that_does_not_say_its_length_is_refused(server: AppServer) -> None:
    connection = Browser(server).connection()
    connection.putrequest("POST", "/open?name=a.mp4")
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 411
    connection.close()


def test_an_upload_that_breaks_off_leaves_nothing(server: AppServer) -> None:
    before = {path.name for path in Path(server._folder.name).iterdir()}
    connection = Browser(server).connection()
    connection.putrequest("POST", "/open?name=half.mp4")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"x" * 10)
    assert connection.sock is not None
    connection.sock.shutdown(1)
    reply = connection.getresponse()
    assert "990 bytes are missing" in json.loads(reply.read())["error"]
    connection.close()
    assert {path.name for path in Path(server._folder.name).iterdir()} == before


def test_another_page_in_the_same_browser_may_not_work_the_server(browser: Browser) -> None:
    stranger = {"Origin": "http://elsewhere.example"}
    reply = browser.post(f"/visit/{browser.visit}/reset", {}, stranger)
    assert reply.status == 403
    own = {"Origin": browser.server.url}
    assert browser.post(f"/visit/{browser.visit}/reset", {}, own).status == 200


def test_a_visit_that_has_ended_is_told_so_and_only_some_are_kept(
    server: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "VISITS", 2)
    first = Browser(server)
    answers = [first.post("/example").values for _ in range(3)]
    assert answers[0]["state"]["name"] == "chair"
    assert answers[0]["state"]["frames"] == 60
    gone, kept = (first.get(f"/visit/{answers[i]['visit']}") for i in (0, 2))
    assert gone.status == 404
    assert "no longer open" in gone.values["error"]
    assert kept.status == 200


def test_a_failure_of_ours_is_a_sentence_too(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server_module.Visit, "reset", broken)
    reply = browser.do("reset")
    assert reply.status == 500
    assert "RuntimeError: out of memory" in reply.values["error"]
    assert "Traceback" in capsys.readouterr().err
