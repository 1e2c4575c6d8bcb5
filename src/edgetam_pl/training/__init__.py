"""Training with Lightning: the only importer of lightning and wandb."""
