"""A model as a folder of Hugging Face's hub has it: config.json, model.safetensors and README.md. Nothing is uploaded or
downloaded unless `push_to_hub` is called, or `from_pretrained` with a name that is no folder.

huggingface_hub's ModelHubMixin is a base class of models; ours know nothing of files and configurations, so these are
functions of the same names, over the same library.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgetam_pl import weights as files
from edgetam_pl.build import build_model, load_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.io.atomic import atomic_path, write_json, write_text
from edgetam_pl.io.environment import VERSION
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights.cards import recorded_model

CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
LIBRARY = "edgetam-pl"
"""What config.json and README.md are recognised by."""


def save_pretrained(weights: str | Path, folder: str | Path, model: ModelConfig | None = None, *, licence: str = "") -> Path:
    """Write a checkpoint as a folder of the hub; returns the folder. Tensors have their official names, in fp32.

    Args:
        weights: an official file, or a checkpoint of our training.
        folder: it is made; files of these names in it are replaced.
        model: the configuration of the checkpoint's model; None: what the checkpoint records.
        licence: as the hub names it (apache-2.0); empty: README.md names none.

    Raises:
        ValueError: no such checkpoint, one of another model, or one that does not say which.
    """
    model = model or _recorded(Path(weights))
    folder, built = Path(folder), load_model(model, weights)
    state = {
        files.official_name(ours): tensor.detach().cpu().float().contiguous() if tensor.is_floating_point() else tensor
        for ours, tensor in built.state_dict().items()
    }
    with atomic_path(folder / WEIGHTS) as draft:
        save_file(state, draft, metadata={"format": "pt"})
    write_json(folder / CONFIG, {"library_name": LIBRARY, "version": VERSION, "model": asdict(model)})
    write_text(folder / README, _readme(model, Path(weights), licence))
    return folder


def from_pretrained(place: str | Path, *, revision: str | None = None, device: str = "cpu") -> TrackAnything:
    """A model from a folder that `save_pretrained` wrote, or from a repository of the hub (OWNER/NAME), in evaluation mode.

    Raises:
        ValueError: no such folder or repository, a folder of another program, or files that do not fit one another.
    """
    folder = Path(place)
    if not folder.is_dir():
        folder = _downloaded(str(place), revision)
    cfg = _config(folder)
    model = build_model(cfg)
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read; it may be truncated. Copy it again. ({error})") from error
    names = {files.official_name(ours): (ours, tensor) for ours, tensor in model.state_dict().items()}
    wrong = [name for name in {*names, *state} if name not in state or name not in names]
    wrong += [name for name in state if name in names and state[name].shape != names[name][1].shape]
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit the model in {CONFIG} ({cfg.name}): {len(wrong)} tensors are missing, unknown "
            f"or of another shape, e.g. {sorted(wrong)[0]}. Were the two files saved together?"
        )
    model.load_state_dict({names[name][0]: tensor for name, tensor in state.items()}, strict=True)
    return model.eval().to(torch.device(device))


def push_to_hub(
    weights: str | Path, repository: str, model: ModelConfig | None = None, *, licence: str = "", private: bool = True
) -> str:
    """Upload a checkpoint to OWNER/NAME of the hub, which is made where it is not there; returns its address. Log in first
    (`hf auth login`). The other arguments are those of `save_pretrained`.

    Raises:
        ValueError: the checkpoint is not one of this model, or the hub refuses; nothing was uploaded.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    model = model or _recorded(Path(weights))
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(weights, folder, model, licence=licence)
        api = HfApi(library_name=LIBRARY, library_version=VERSION)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"{model.name}, by edgetam-pl {VERSION}"
            )
        except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
            raise ValueError(
                f"{repository} was not uploaded: {error}. Are you logged in (hf auth login), and is the name OWNER/NAME?"
            ) from error
    return f"https://huggingface.co/{repository}"


def _downloaded(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{repository} is no folder here, and the hub did not give it: {type(error).__name__}. Without a network, copy "
            f"{CONFIG} and {WEIGHTS} of the repository into a folder and give that."
        ) from error


def _config(folder: Path) -> ModelConfig:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}; save_pretrained writes both.")
    try:
        found: Any = json.loads((folder / CONFIG).read_text())
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise ValueError("it names no model of ours; a folder for Transformers is read by Transformers")
        return recorded_model(found["model"])
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} cannot be used: {error}.") from error


def _recorded(weights: Path) -> ModelConfig:
    card = files.contents(weights).card or {}
    if "model" not in card:
        raise ValueError(
            f"{weights} does not say which model it is of; give its configuration, e.g. ModelConfig() for EdgeTAM."
        )
    return recorded_model(card["model"])


def _readme(model: ModelConfig, weights: Path, licence: str) -> str:
    """The model's page on the hub: what our training wrote of it, and how to use it."""
    card = files.contents(weights).card or {}
    facts = "".join(f"* {name}: {value}\n" for name, value in card.items() if name != "model" and value is not None)
    head = [f"library_name: {LIBRARY}", "pipeline_tag: mask-generation", "tags: [video-object-segmentation, edgetam]"]
    head += [f"license: {licence}"] if licence else []
    lines = "\n".join(head)
    return f"""---
{lines}
---
# {model.name}

A promptable video tracker, input {model.image_size} px, saved from `{weights.name}` by edgetam-pl {VERSION}.
{facts}
```python
import edgetam_pl as et

model = et.from_pretrained("OWNER/NAME")  # or this folder
session = et.Session(model, et.open_video("video.mp4"))
```
"""
