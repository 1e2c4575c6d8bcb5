"""Official weights by name: fetched once, from a server of this test, and what is said where that cannot be."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from smallest import SMALL

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import expand, model_config
from edgetam_pl.commands.main import main
from edgetam_pl.io import released, resources, shipped
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.io.released import RELEASES, Release, fetched, is_name, place

CONTENT = b"not a real checkpoint" * 100


class Shelf(BaseHTTPRequestHandler):
    """Serves `content`; counts what was asked for."""

    content, asked, kind, announced = b"", [], "application/octet-stream", None

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(200 if self.content else 404)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(self.announced or len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Shelf]]:
    """A server that has edgetam.pt, a file of a toy, instead of GitHub."""
    kind = type("OneShelf", (Shelf,), {"content": CONTENT, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/edgetam.pt"
        monkeypatch.setitem(RELEASES, "edgetam", Release(url, hashlib.sha256(CONTENT).hexdigest(), 1))
        monkeypatch.setenv("EDGETAM_WEIGHTS", str(tmp_path / "weights"))
        monkeypatch.delenv("http_proxy", raising=False)
        yield kind
        server.shutdown()


def test_a_release_is_fetched_once(shelf: type[Shelf], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetched("edgetam")
    assert path == tmp_path / "weights" / "edgetam.pt" == fetched("edgetam")
    assert path.read_bytes() == shelf.content
    assert shelf.asked == ["/edgetam.pt"]
    told = capsys.readouterr().err
    assert "1 MB, Apache-2.0" in told
    assert sha256_of(path) in told
    assert [one.name for one in path.parent.iterdir()] == ["edgetam.pt"], "no leftovers"


def test_a_word_names_weights_and_model(shelf: type[Shelf]) -> None:
    path = place("edgetam")
    assert expand(["weights=edgetam"]) == ["model=edgetam", f"weights={path}"]
    assert expand(["model=lite", "weights=edgetam"]) == ["model=lite", f"weights={path}"]
    assert expand(["teacher_weights=edgetam"]) == ["model@teacher=edgetam", f"teacher_weights={path}"]
    assert shipped.resolve(None, "edgetam") == ("edgetam", str(path))
    assert shelf.asked == ["/edgetam.pt"]


def test_a_fetched_file_is_loaded_strictly(
    shelf: type[Shelf], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came is no EdgeTAM: it is not used."""
    toy = tmp_path / "toy.pt"
    weights.save_official(build_model(model_config("toy", *SMALL)), toy)
    shelf.content = toy.read_bytes()
    release = RELEASES["edgetam"]._replace(sha256=sha256_of(toy))
    monkeypatch.setitem(RELEASES, "edgetam", release)
    assert main(["weights", "convert", "edgetam", str(tmp_path / "ours.ckpt"), "--model", "edgetam"]) == 2
    assert "does not fit this model" in capsys.readouterr().err
    assert main(["weights", "inspect", "edgetam"]) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"content": b""}, "404"),
        ({"kind": "text/html; charset=utf-8"}, "answered with a web page"),
        ({"announced": 10**6}, "bytes came"),
        ({"content": b"changed on its way"}, "sha256 is .* that of the released file is"),
    ],
)
def test_what_cannot_be_fetched_is_named_with_the_cure(shelf: type[Shelf], change: dict[str, object], why: str) -> None:
    for name, value in change.items():
        setattr(shelf, name, value)
    with pytest.raises(ValueError, match=why) as error:
        fetched("edgetam")
    told = str(error.value)
    assert f"Get {RELEASES['edgetam'].url} on a machine that has a network, and put it at {place('edgetam')}" in told
    assert not place("edgetam").exists()
    place("edgetam").write_bytes(b"put there by hand")
    assert fetched("edgetam").read_bytes() == b"put there by hand"


def test_without_a_network_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASES, "edgetam", Release("http://127.0.0.1:1/edgetam.pt", "", 1))
    monkeypatch.setenv("EDGETAM_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"could not be downloaded .*Get http://127.0.0.1:1/edgetam.pt"):
        fetched("edgetam")


def test_the_cache_folder_holds_released_weights_unless_they_have_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGETAM_WEIGHTS", raising=False)
    monkeypatch.setenv("EDGETAM_CACHE", str(tmp_path / "cache"))
    assert place("edgetam") == tmp_path / "cache" / "weights" / "edgetam.pt"
    monkeypatch.setenv("EDGETAM_WEIGHTS", str(tmp_path / "shelf"))
    assert place("edgetam") == tmp_path / "shelf" / "edgetam.pt"


def test_a_file_of_that_name_wins_and_near_names_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_name("edgetam")
    Path("edgetam").write_bytes(b"mine")
    assert not is_name("edgetam")
    with pytest.raises(ValueError, match=r"no checkpoint sam2.1_tiny; .* Did you mean sam2.1_hiera_tiny\?"):
        weights.load_file(Path("sam2.1_tiny"))


def test_every_release_is_of_a_model_of_the_zoo() -> None:
    zoo = resources.names(resources.CONFIGS, "model")
    assert RELEASES.keys() <= {*zoo}
    assert all(len(bytes.fromhex(release.sha256)) == 32 and release.megabytes > 50 for release in RELEASES.values())
    assert len({release.sha256 for release in RELEASES.values()}) == len(RELEASES)
    assert all(
        release.url.startswith("https://") and release.url.endswith(f"{name}.pt") for name, release in RELEASES.items()
    )
    for name in RELEASES:
        assert OmegaConf.load(resources.shipped(resources.CONFIGS) / "model" / f"{name}.yaml").name == name
    assert released.place("edgetam").name == "edgetam.pt"
