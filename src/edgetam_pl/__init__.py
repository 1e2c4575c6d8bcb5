"""EdgeTAM-PL: train, evaluate and ship EdgeTAM, and the SAM 2 family around it."""

from edgetam_pl.compat import torchvision_ops as torchvision_ops
from edgetam_pl.io.environment import VERSION as __version__

__all__ = ["__version__"]
