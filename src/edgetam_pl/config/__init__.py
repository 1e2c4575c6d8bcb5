"""The schema of every YAML key. Hydra composes, these dataclasses check, `build.py` builds. Standard library only.

Each field's docstring says what it is, in which unit, and where the default comes from; `edgetam COMMAND --help` prints it.
"""

from edgetam_pl.config.data import AugmentConfig, DataConfig, DataSource, ShardsConfig
from edgetam_pl.config.evaluation import BenchConfig, EvaluateConfig, ShowConfig
from edgetam_pl.config.export import ExportConfig, GateConfig, Tolerance
from edgetam_pl.config.model import CompressorConfig, ModelConfig
from edgetam_pl.config.training import (
    LauncherConfig,
    LoggerConfig,
    LossWeights,
    OptimConfig,
    PhaseConfig,
    PromptConfig,
    StageConfig,
    TrainConfig,
    TrialConfig,
    ValidationConfig,
)

__all__ = [
    "AugmentConfig",
    "BenchConfig",
    "CompressorConfig",
    "DataConfig",
    "DataSource",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "LauncherConfig",
    "LoggerConfig",
    "LossWeights",
    "ModelConfig",
    "OptimConfig",
    "PhaseConfig",
    "PromptConfig",
    "ShardsConfig",
    "ShowConfig",
    "StageConfig",
    "Tolerance",
    "TrainConfig",
    "TrialConfig",
    "ValidationConfig",
]
