"""The other two ways to run EdgeTAM: the PyPI package `edgetam-dimos` and Hugging Face's `EdgeTamVideoModel`.

Each is given the same official weights and the same frames, and tracks from the same click. A package that is missing is
no error: `available` says why a peer cannot take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.weights import to_huggingface  # and edgetam_pl declares what torchvision needs when imported

PACKAGES = {"edgetam-dimos": ("sam2",), "huggingface": ("transformers", "tokenizers", "regex")}
"""What each peer imports."""


Prepare = Callable[[torch.nn.Module], object]
"""Is given the peer's model before it tracks."""


def available(peer: str) -> str | None:
    """None when the peer can run here, else why not."""
    missing = [package for package in PACKAGES[peer] if find_spec(package) is None]
    return None if not missing else f"not installed: {', '.join(missing)}"


def track_with_package(
    weights: Path, images: Tensor, click: tuple[float, float], *, device: str, prepare: Prepare | None = None
) -> Iterator[Tensor]:
    """Logits (S, S) of each frame by `edgetam-dimos`'s video predictor, without post-processing.

    Args:
        weights: official file.
        images: (T, 3, S, S) normalised; its own loader would resize and normalise them so before the first frame.
        click: (x, y) in pixels of the S x S frames.
    """
    import hydra
    import sam2.modeling.backbones.timm as backbones
    from hydra.core.global_hydra import GlobalHydra
    from sam2 import sam2_video_predictor
    from sam2.build_sam import build_sam2_video_predictor

    def untrained(name: str, *, pretrained: bool, **arguments: object) -> torch.nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **arguments)  # nothing is downloaded; weights follow

    side = images.shape[-1]
    with patch.object(backbones, "create_model", untrained):
        GlobalHydra.instance().clear()
        hydra.initialize_config_module("sam2", version_base="1.2")
        predictor = build_sam2_video_predictor(
            "edgetam.yaml",
            str(weights),
            device=device,
            apply_postprocessing=False,
            hydra_overrides_extra=_package_size(side),
        )
        GlobalHydra.instance().clear()
    if prepare is not None:
        prepare(predictor)
    with patch.object(sam2_video_predictor, "load_video_frames", lambda **_: (images.to(device), side, side)):
        state = predictor.init_state("frames given")
    predictor.add_new_points_or_box(state, 0, 1, points=np.array([click], np.float32), labels=np.array([1], np.int32))
    for _, _, logits in predictor.propagate_in_video(state):
        yield logits[0, 0]


def track_with_huggingface(weights: Path, images: Tensor, click: tuple[float, float], *, device: str) -> Iterator[Tensor]:
    """The same by `EdgeTamVideoModel`, enlarged to S x S as its processor does."""
    from transformers import EdgeTamVideoModel

    from edgetam_pl.exporting.transformers_layout import edgetam_config

    side = images.shape[-1]
    config = edgetam_config(side)
    model = EdgeTamVideoModel(config).eval().to(device)
    official = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict(to_huggingface(official, model.state_dict()))
    yield from track_with_transformers(model, images, click, device=device)


def track_with_transformers(
    model: torch.nn.Module, images: Tensor, click: tuple[float, float], *, device: str = "cpu"
) -> Iterator[Tensor]:
    """The same by any video model of Transformers that descends from SAM 2, enlarged to S x S as its processor does."""
    import transformers

    side = images.shape[-1]
    sessions = getattr(transformers, type(model).__name__.replace("Model", "InferenceSession"))
    session = sessions(
        video=images.to(device), video_height=side, video_width=side, inference_device=device, dtype=torch.float32
    )
    inputs = {"point_coords": torch.tensor([[[click]]]), "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(index, 0, inputs)
    session.obj_with_new_inputs = [1]
    for answer in model.propagate_in_video_iterator(session, start_frame_idx=0):
        yield F.interpolate(answer.pred_masks.float(), (side, side), mode="bilinear", align_corners=False)[0, 0]


def _package_size(side: int) -> list[str]:
    """Overrides of its configuration for another input side."""
    if side == 1024:
        return []
    cells = side // 16
    layer = "model.memory_attention.layer"
    return [
        f"++model.image_size={side}",
        f"++{layer}.self_attention.feat_sizes=[{cells},{cells}]",
        f"++{layer}.cross_attention.q_sizes=[{cells},{cells}]",
    ]
