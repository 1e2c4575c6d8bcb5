"""EdgeTAM-PL: train, evaluate and ship EdgeTAM, and the SAM 2 family around it.

    import edgetam_pl as et

    clip = et.example_clip()
    session = et.Session(et.load_model(), et.open_video(clip.frames))                       # the shipped tracker
    session = et.Session(et.load_model("edgetam", "edgetam.pt"), et.open_video("dog.mp4"))  # the released one

Names are imported when they are first used, so that importing the package takes no time. Modules of the package import one
another by their own names, never from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgetam_pl.compat import torchvision_ops
from edgetam_pl.io.environment import VERSION as __version__

if TYPE_CHECKING:
    from edgetam_pl.api import evaluate, export, load_model, shards, train
    from edgetam_pl.config import ModelConfig
    from edgetam_pl.datasets.toy_clips import toy_clip
    from edgetam_pl.exporting.hub import from_pretrained, push_to_hub, save_pretrained
    from edgetam_pl.interactive.example_clip import example_clip
    from edgetam_pl.interactive.options import SessionOptions
    from edgetam_pl.interactive.session import Session
    from edgetam_pl.io.video import open_video

torchvision_ops.install()

_HOMES = {
    "ModelConfig": "config",
    "Session": "interactive.session",
    "SessionOptions": "interactive.options",
    "evaluate": "api",
    "example_clip": "interactive.example_clip",
    "export": "api",
    "from_pretrained": "exporting.hub",
    "load_model": "api",
    "open_video": "io.video",
    "push_to_hub": "exporting.hub",
    "save_pretrained": "exporting.hub",
    "shards": "api",
    "toy_clip": "datasets.toy_clips",
    "train": "api",
}
"""Public name -> the module it is in."""

__all__ = [
    "ModelConfig",
    "Session",
    "SessionOptions",
    "__version__",
    "evaluate",
    "example_clip",
    "export",
    "from_pretrained",
    "load_model",
    "open_video",
    "push_to_hub",
    "save_pretrained",
    "shards",
    "toy_clip",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
