"""EdgeTAM-PL: train, evaluate and ship EdgeTAM, and the SAM 2 family around it."""

from edgetam_pl import _torchvision_ops as _torchvision_ops  # first: before anything imports torchvision

__version__ = "0.1.0"
