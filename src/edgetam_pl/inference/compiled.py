"""torch.compile where it pays: the image encoder, and the blocks of memory attention.

Parts are compiled in place, so names in checkpoints stay as they are. The encoder sees few shapes: one for clips, one for
images. A block sees another number of keys on every frame until the memory is full, so that number is a variable of its
graph from the first call on: nothing is compiled again as the memory fills. Prompts and masks are too varied to pay.
"""

from __future__ import annotations

from edgetam_pl.model.track_anything import TrackAnything


def compile_parts(model: TrackAnything, *, backend: str = "inductor") -> None:
    """Compile `model` in place, at the first call of each part."""
    model.image_encoder.compile(backend=backend)
    for block in model.memory_attention.blocks:
        block.compile(dynamic=True, backend=backend)
