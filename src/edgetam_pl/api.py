"""The public face, for Python: `import edgetam_pl as et`. A command's settings are keywords here; docs/api.md shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetam_pl import build
from edgetam_pl.commands.compose import composed, model_for, words_of
from edgetam_pl.config import EvaluateConfig, ExportConfig, ModelConfig, ShardsConfig, TrainConfig
from edgetam_pl.io import released, shipped
from edgetam_pl.model.track_anything import TrackAnything

if TYPE_CHECKING:
    from edgetam_pl.evaluation.reporting.report import Report
    from edgetam_pl.exporting.report import ExportReport


def load_model(
    model: str | ModelConfig | None = None, weights: str | Path | None = None, *, seed: int = 0, device: str = "cpu"
) -> TrackAnything:
    """A model of the zoo, or one of your own configuration, with its weights, ready to track.

    `load_model()` is the small tracker that comes with the package, and says so in one line on stderr.

    Args:
        model: a name of configs/model (`edgetam`), or a `ModelConfig`. None: that of the shipped weights; where others are
            given, the model that they record, else `edgetam`.
        weights: an official file or its name (`edgetam`), Hugging Face's, a checkpoint of your own training, `random`, or
            `shipped`. None: the shipped ones for their own model, random ones for any other.
        seed: of random weights.

    Raises:
        ValueError: no such model or file, a file of another model, or no shipped weights where they are meant.
    """
    if weights is None and model not in (None, shipped.NAME):
        weights = build.RANDOM
    if isinstance(model, ModelConfig):
        cfg, weights = model, shipped.weights() if weights == shipped.WORD else weights
        weights = released.fetched(str(weights)) if released.is_name(weights) else weights
    else:
        name, weights = shipped.resolve(model, weights)
        cfg = model_for(name, weights)
    return build.load_model(cfg, weights, seed=seed).to(device)


def shards(*words: str, **settings: Any) -> Path:
    """Build shards from a data set or your own videos, as `edgetam shards`; returns their folder.

    Raises:
        ValueError: a folder that is not what the source expects, or that holds no sample.
    """
    from edgetam_pl.data.build import run

    cfg = _composed(ShardsConfig, "shards", words, settings)
    if run(cfg) != 0:
        raise ValueError(f"No sample was written to {cfg.out}; the messages above say what was left out, and why.")
    return Path(cfg.out)


def train(*words: str, **settings: Any) -> Path:
    """Train a model, as `edgetam train`; returns the file of its weights. The same call continues where it stopped.

    Args:
        words: settings as on the command line, where a key is no Python name: `"stage.optim.lr=1e-4"`.
        settings: `model="toy"`, `data="toy"`; `trainer={"max_time": "1:0:0:0"}` sets keys inside a group.

    Raises:
        ValueError: a configuration that cannot work, refused before anything is allocated.
    """
    from edgetam_pl.training.fit import run

    return run(_composed(TrainConfig, "train", words, settings))


def evaluate(*words: str, **settings: Any) -> Report:
    """Score a model on a data set, as `edgetam evaluate`; returns the report, which is also written.

    Raises:
        ValueError: a protocol, data set or checkpoint that does not fit.
    """
    from edgetam_pl.evaluation.runner import run

    report = run(_composed(EvaluateConfig, "evaluate", words, settings))
    assert report is not None, "only ranks of torchrun other than the first have no report"
    return report


def export(*words: str, **settings: Any) -> ExportReport | None:
    """Write packages for a phone, as `edgetam export`; returns what the gate measured, or None after a dry run.

    Raises:
        ValueError: unsuitable weights, an unsupported target, missing extras.
        ExportRefused: the packages do not compute what the checkpoint computes.
    """
    from edgetam_pl.exporting.run import run

    return run(_composed(ExportConfig, "export", words, settings))


def _composed(schema: type[Any], command: str, words: tuple[str, ...], settings: dict[str, Any]) -> Any:
    plain = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    return composed(schema, command=command, overrides=[*words_of(plain), *words])[0]
