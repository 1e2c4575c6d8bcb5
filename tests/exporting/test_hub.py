"""Folders as Hugging Face's hub has them; nothing here reaches the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from smallest import SMALL

import edgetam_pl as et
from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.exporting import hub

CFG = model_config("toy", *SMALL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its folder."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(3)
    weights.save_ours(build_model(CFG), root / "ours.ckpt", {"steps_done": 12, "teacher": None})
    return root / "ours.ckpt", hub.save_pretrained(root / "ours.ckpt", root / "folder", CFG, licence="apache-2.0")


def test_a_folder_holds_the_model(saved: tuple[Path, Path]) -> None:
    """Configuration and weights come back as they were; no name of the model is needed."""
    file, folder = saved
    model = et.from_pretrained(folder)
    original = weights.load_into(build_model(CFG), file)
    assert not model.training
    found = model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in original.state_dict().items())


def test_tensors_have_official_names_and_the_page_says_what_is_known(saved: tuple[Path, Path]) -> None:
    folder = saved[1]
    assert "sam_mask_decoder.iou_token.weight" in load_file(folder / "model.safetensors")
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: edgetam-pl\n")
    assert "license: apache-2.0" in readme
    assert "* steps_done: 12" in readme
    assert "teacher" not in readme


def test_pushing_uploads_that_folder(saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, **named: Any) -> None: ...

        def create_repo(self, name: str, **named: Any) -> None:
            calls.append((name, named))

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert et.push_to_hub(saved[0], "me/tracker", CFG) == "https://huggingface.co/me/tracker"
    assert calls == [
        ("me/tracker", {"private": True, "exist_ok": True}),
        ("me/tracker", ["README.md", "config.json", "model.safetensors"]),
    ]


def broken(folder: Path, name: str, content: str | None) -> Path:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", "half", "may be truncated"),
        ("config.json", json.dumps({"model_type": "edgetam_video"}), "read by Transformers"),
        ("config.json", json.dumps({"model": {"nonsense": 1}}), "cannot be used"),
        ("config.json", json.dumps({"model": {"dim": 64}}), "Were the two files saved together"),
    ],
)
def test_what_is_no_such_folder_is_refused(
    name: str, content: str | None, said: str, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in saved[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=said):
        hub.from_pretrained(broken(tmp_path, name, content))


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*words: Any, **named: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", away)
    with pytest.raises(ValueError, match=r"the hub did not give it: OSError\. Without a network"):
        hub.from_pretrained("me/tracker")
