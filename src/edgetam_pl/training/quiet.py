"""Warnings of libraries that a clean run would print, by name, and the reason why each says nothing."""

from __future__ import annotations

import warnings

EXPECTED = {
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "Lightning's own question to PyTorch",
    r"Found \d+ module\(s\) in eval mode at the start of training": "frozen parts are held in eval mode (training.step)",
    r"The `srun` command is available": "on machines of a SLURM cluster; docs/cluster.md says how trainings are begun there",
    r"Checkpoint directory .* exists and is not empty": "phases and resumed runs keep their checkpoints in one folder",
}
"""What a warning begins with, and the reason."""


def silence_expected() -> None:
    """Ignore these, and no others, from now on."""
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=message)
