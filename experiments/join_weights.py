"""Two checkpoints of one model as one: the mean of all weights, or the memory of one and the image parts of the other.

    python experiments/join_weights.py mean A.pt B.pt OUT.pt
    python experiments/join_weights.py images MEMORY.pt IMAGES.pt OUT.pt

`images` takes from IMAGES.pt what stage 1 trains. The memory of an earlier training is then a better beginning than none,
and has to be trained again.
"""

from __future__ import annotations

import sys

import torch

IMAGES = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "mask_downsample.", "no_mem_")
"""Beginnings of the official names of what works on single frames."""


def main(how: str, first: str, second: str, out: str) -> None:
    contents = [torch.load(path, map_location="cpu", weights_only=True) for path in (first, second)]
    a, b = (content["model"] for content in contents)
    if {name: tensor.shape for name, tensor in a.items()} != {name: tensor.shape for name, tensor in b.items()}:
        raise SystemExit(f"{first} and {second} are of different models.")
    if how == "mean":
        contents[0]["model"] = {n: (t + b[n]) / 2 if t.is_floating_point() else t for n, t in a.items()}
    elif how == "images":
        contents[0]["model"] = {n: b[n] if n.startswith(IMAGES) else t for n, t in a.items()}
    else:
        raise SystemExit(f"{how} is neither mean nor images.")
    torch.save(contents[0], out)


if __name__ == "__main__":
    main(*sys.argv[1:])
