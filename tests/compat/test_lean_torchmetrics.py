"""torchmetrics is told that packages are absent which no command needs, once it is looked for and not before."""

from __future__ import annotations

import sys

import pytest
from lightning_utilities.core import imports

from edgetam_pl.compat import lean_torchmetrics


def test_unused_packages_are_hidden_when_torchmetrics_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(imports, "package_available", lambda name: True)
    monkeypatch.setattr(imports.RequirementCache, "__bool__", lambda self: True)
    lean_torchmetrics.install()
    lean_torchmetrics.install()
    (finder,) = sys.meta_path
    assert finder.find_spec("lightning", None) is None
    assert imports.package_available("scipy")
    assert finder.find_spec("torchmetrics", None) is None
    assert sys.meta_path == []
    assert [name for name in ("numpy", "scipy", "PIL") if imports.package_available(name)] == ["numpy", "PIL"]
    asked = ("transformers>=4.4.0", "torchvision", "matplotlib", "torch>=2.1.0", "scipy>=1.8.0")
    assert [name for name in asked if imports.RequirementCache(name)] == ["torchvision", "torch>=2.1.0"]
    assert not imports.RequirementCache(module="scipy")
