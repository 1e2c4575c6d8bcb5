"""A checkpoint with another number of spatial latents: its latents lie on a square grid, which is resampled.

    python experiments/resize_latents.py runs/a/weights.pt 16 runs/a/weights-16.pt

Windows of the 2D perceiver keep their size in tokens when image size and latents change together (128 px and 16, 256 px
and 64: windows of 2 x 2), so what memory attention has learned about their places holds.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

NAME = "spatial_perceiver.latents_2d"
"""The spatial latents in official names."""


def main(source: str, count: str, out: str) -> None:
    content = torch.load(source, map_location="cpu", weights_only=True)
    latents = content["model"][NAME]  # (N_l, D)
    old, new = round(len(latents) ** 0.5), round(int(count) ** 0.5)
    grid = latents.T.reshape(1, -1, old, old)
    resized = F.interpolate(grid.float(), (new, new), mode="bilinear", antialias=True, align_corners=False)
    if card := content.get("edgetam_pl"):
        card["model"]["compressor"]["spatial_latents"] = new * new
    content["model"][NAME] = resized[0].flatten(1).T.contiguous().to(latents.dtype)  # (new * new, D)
    torch.save(content, out)
    print(f"{out}: {len(latents)} spatial latents became {new * new}")


if __name__ == "__main__":
    main(*sys.argv[1:])
