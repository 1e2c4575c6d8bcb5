"""EdgeTAM-PL: train, evaluate and ship EdgeTAM, and the SAM 2 family around it."""

from edgetam_pl.compat import torchvision_ops
from edgetam_pl.io.environment import VERSION as __version__

torchvision_ops.install()

__all__ = ["__version__"]
