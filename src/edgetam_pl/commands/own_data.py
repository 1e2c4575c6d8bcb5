"""`data=` with a place instead of a name: a folder of shards, or a YAML of one's own, anywhere on disk.

With it comes validation: shards remember the folder and the list that they were made of, and where `edgetam split` has left
a list of other videos there (val.txt), these are tracked while training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edgetam_pl.io.folders import lines_of, list_in
from edgetam_pl.io.resources import CONFIGS, names

VALIDATIONS, CLIPS = 10, 16
"""Looks at own validation videos in a training, and the most videos of each, unless other numbers are given."""


def is_place(value: str) -> bool:
    """Does `data=VALUE` name a folder, a file or a URL, rather than one of configs/data?"""
    return value not in (*names(CONFIGS, "data"), "null", "") and (
        "/" in value or Path(value).suffix in {".yaml", ".yml"} or Path(value).expanduser().exists()
    )


def settings(value: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of `data` that the place stands for, and keys of the validation that goes with it.

    Raises:
        ValueError: nothing is there, or it holds neither shards nor sources; the message says how shards are made.
    """
    path = Path(value).expanduser()
    if path.suffix in {".yaml", ".yml"}:
        given = _mapping(path)
        return given, _validation([str(source.get("shards", "")) for source in given["sources"]])
    place = value if "://" in value else str(path)
    if place.endswith(".tar"):  # tars of another program, or a part of a folder
        return {"sources": [{"name": path.stem, "shards": place, "kind": "video", "weight": 1.0}]}, {}
    manifest = _manifest(place)
    source = {"name": manifest.name, "shards": place, "kind": manifest.kind, "weight": 1.0}
    return {"sources": [source]}, _validation([place])


def refuse_toys(words: Sequence[str]) -> None:
    """Training would run on generated clips if no data are given; with a checkpoint to start from nobody wants that.

    Raises:
        ValueError: weights are given, and no data.
    """
    given = {key: value for key, equals, value in (word.partition("=") for word in words) if equals}
    start = Path(given.get("weights", "")).expanduser()
    toys = given.get("model", "").startswith("toy")
    if start.is_file() and not toys and not any(key == "data" or key.startswith("data.sources") for key in given):
        raise ValueError(
            f"weights={start} is given and no data: this would train it on generated toys. Give data=DIR, a folder of your "
            "shards (edgetam shards source=videos root=MINE out=DIR), a name of configs/data, or data=toy if toys are meant."
        )


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no file data={path}; give a YAML with sources, or a folder of shards.")
    try:
        given = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data={path} cannot be read as YAML: {error}") from error
    if not isinstance(given, dict) or not isinstance(given.get("sources"), list) or not given["sources"]:
        raise ValueError(
            f"data={path} needs a list of sources, e.g. sources: [{{name: mine, shards: runs/shards/mine, weight: 1.0}}]; "
            "the other keys are those of `data` in edgetam train --help."
        )
    return {str(key): value for key, value in given.items()}


def _manifest(place: str) -> Any:
    from edgetam_pl.data.shards import read_manifest

    folder = Path(place)
    if "://" not in place and not folder.is_dir():
        known = ", ".join(names(CONFIGS, "data"))
        raise ValueError(f"There is no folder data={place}. data= takes a folder of shards, a YAML, or one of {known}.")
    try:
        return read_manifest(place)
    except ValueError as error:
        layout = next((name for name, inside in _RAW.items() if (folder / inside).is_dir()), None)
        if layout is None:
            raise
        raise ValueError(
            f"data={place} is a folder of {layout}, not of shards; shards are made of it by: edgetam shards source={layout} "
            f"root={place} out=DIR. Then data=DIR."
        ) from error


_RAW = {"davis": "JPEGImages", "videos": "videos", "images": "images"}


def _validation(places: Sequence[str]) -> dict[str, Any]:
    """Keys of validation for the first of these shards that were made of a list beside which there is one to validate on."""
    from edgetam_pl.data.shards import read_manifest

    for place in places:
        if "://" in place or not (Path(place).expanduser() / "manifest.json").is_file():
            continue
        made = read_manifest(str(Path(place).expanduser())).settings
        root = Path(str(made.get("root") or "nowhere"))
        if not root.is_dir():
            continue
        trained = str(made.get("split") or "")
        beside = str(Path(trained).with_name("val.txt")) if trained.endswith(".txt") else "val"
        try:
            val = lines_of(list_in(root, beside))
        except ValueError:
            _say(f"no validation: {root} has no list val.txt. `edgetam split {root}` makes one, before shards are made.")
            continue
        if not trained or {*val} & {*lines_of(list_in(root, trained))}:
            _say(f"no validation: the shards {place} hold the videos of val.txt too; build them with split=train.")
            continue
        return {"root": str(root), "split": beside, "times": VALIDATIONS, "clips": CLIPS}
    return {}


def _say(text: str) -> None:
    print(text, file=sys.stderr)
