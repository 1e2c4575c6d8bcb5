"""The app's page in a browser without a window: clicks, a dragged box, tracking, errors, as a visitor meets them.

A page beside it, of the same server, holds it in a frame, does what a hand would do and writes down what is seen.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import pytest
from app_pages import serving

from edgetam_pl.interactive.server import AppServer, _Request

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

HAND = """<!doctype html><iframe id="app" src="/" style="width:1200px;height:900px"></iframe><pre id="seen"></pre><script>
const seen = {}, until = async test => { for (let i = 0; i < 1500 && !test(); i++) await fetch('/tick'); };
document.getElementById('app').onload = async () => {
  const view = document.getElementById('app').contentWindow, page = view.document, $ = id => page.getElementById(id);
  const hand = (kind, x, y, more = {}) => {
    const area = $('frame').getBoundingClientRect();
    $('picture').dispatchEvent(new view.PointerEvent(kind, {bubbles: true, button: 0, pointerId: 1,
      clientX: area.left + x * area.width, clientY: area.top + y * area.height, ...more}));
  };
  view.HTMLElement.prototype.setPointerCapture = () => {};
  const rows = () => [...page.querySelectorAll('#objects li')].filter(one => one.querySelector('button'));
  const objects = () => rows().map(one => one.innerText.trim());
  const colours = () => [...page.querySelectorAll('#objects i')].map(one => one.style.background);
  seen.before = [$('track').disabled, $('undo').disabled, $('title').textContent];
  $('example').click();
  await until(() => $('frame').naturalWidth);
  seen.title = $('title').textContent;
  hand('pointerdown', .4, .3); hand('pointerup', .4, .3);  // a click on it
  await until(() => objects().length === 1);
  hand('pointerdown', .1, .1, {shiftKey: true}); hand('pointerup', .1, .1, {shiftKey: true});  // and one off it
  await until(() => !$('undo').disabled && page.querySelectorAll('#objects button').length === 1);
  $('new').click();
  hand('pointerdown', .6, .6); hand('pointermove', .9, .9);
  seen.box = [$('box').hidden, $('box').style.left, $('box').style.width];
  hand('pointerup', .9, .9);  // a dragged box
  await until(() => objects().length === 2);
  seen.objects = objects(); seen.colours = colours();
  $('track').click();
  await until(() => $('number').textContent > 2);
  seen.while = [$('stop').disabled, $('undo').disabled, $('progress').textContent.endsWith('of 60 frames')];
  $('stop').click();
  await until(() => $('stop').disabled);
  seen.stopped = Number($('number').textContent) < 59;
  page.querySelector('#objects li button').click();
  await until(() => objects().length === 1);
  seen.left = objects();
  $('reset').click();
  await until(() => !objects().length);
  seen.track = $('track').disabled;
  const data = new view.DataTransfer();
  data.items.add(new view.File(['no film'], 'notes.mp4'));
  $('file').files = data.files;
  $('file').dispatchEvent(new view.Event('change'));
  await until(() => $('open-error').textContent);
  seen.error = $('open-error').textContent;
  seen.asked = [...new Set(view.performance.getEntriesByType('resource').map(one => new URL(one.name).host))];
  document.getElementById('seen').textContent = JSON.stringify(seen);
};
</script>"""


class _WithHand(AppServer):
    """The server, and at /hand the page that works it."""

    def finish_request(self, request: Any, client_address: Any) -> None:
        _HandRequest(request, client_address, cast(Any, self))


class _HandRequest(_Request):
    def _get(self, *path: str) -> None:
        if path == ("tick",):  # the browser's own time runs faster than ours
            time.sleep(0.03)
            self._json({})
        elif path == ("hand",):
            self._bytes(HAND.encode(), "text/html; charset=utf-8")
        else:
            super()._get(*path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_hand_clicks_drags_tracks_stops_and_reads_errors(tmp_path: Path) -> None:
    with serving(_WithHand) as server:
        told = subprocess.run(
            [
                str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", f"{server.url}/hand",
            ],
            capture_output=True, text=True, timeout=200, check=True,
        )  # fmt: skip
        host = server.url.removeprefix("http://")
    found = re.search(r'<pre id="seen">(\{.*?\})</pre>', told.stdout)
    assert found, told.stdout[-3000:] + told.stderr[-3000:]
    seen = json.loads(found[1])
    assert seen["before"] == [True, True, "No video is open."]
    assert seen["title"] == "chair: 60 frames, 300 x 200"
    assert seen["box"] == [False, "60%", "30%"]
    assert [one.split("\n")[0].removesuffix("×").strip() for one in seen["objects"]] == ["Object 1", "Object 2"]
    assert len({*seen["colours"]}) == 2
    assert seen["while"] == [False, True, True]
    assert seen["stopped"]
    assert "Object 2" in seen["left"][0]
    assert seen["track"]
    assert seen["error"].startswith("notes.mp4 cannot be decoded as a video")
    assert seen["asked"] == [host]
