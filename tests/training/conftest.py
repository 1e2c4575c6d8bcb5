"""Shards that several tests of training read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run as build_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for kind, frames in (("video", 8), ("image", 1)):
        words = ["source=toy", f"out={root / kind}", "clips=8", f"frames={frames}", "size=64", "objects=3", "processes=1"]
        build_shards(composed(ShardsConfig, command="shards", overrides=words)[0])
    return root
