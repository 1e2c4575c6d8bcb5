"""The words that make a toy model as small as it gets, for tests of commands and of training."""

SMALL = (
    "model.image_size=64",
    "model.trunk_args={embed_dim:[8,16,24,32],depth:[1,1,1,1]}",
    "model.dim=32",
    "model.memory_dim=16",
    "model.memory_blocks=1",
    "model.memory_ffn=32",
    "model.decoder_mlp=32",
    "model.compressor.global_latents=4",
    "model.compressor.spatial_latents=4",
    "model.compressor.depth=1",
)
