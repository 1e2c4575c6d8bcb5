"""One command line. Training-side commands take Hydra overrides, tool-like ones take ordinary flags.

Every command imports what it needs only when it is called, so that `edgetam --help` is quick and a missing extra hurts
nobody who does not need it.
"""

from __future__ import annotations

from edgetam_pl.commands.begin import STOPPABLE, TOGETHER, begun  # isort: skip  (first: signals are heard while the rest is imported)

import ast
import dataclasses
import errno
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from edgetam_pl import config
from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.io import resources, stop
from edgetam_pl.io.environment import VERSION
from edgetam_pl.io.errors import ExplainedError


class Composed(NamedTuple):
    """A command configured by Hydra overrides: checked by `config.<schema>`, done by `module.run(cfg)`."""

    summary: str
    schema: str
    module: str
    example: str


class Flagged(NamedTuple):
    """A command with ordinary flags: `module.main(argv)`."""

    summary: str
    module: str


COMMANDS: dict[str, Composed | Flagged] = {
    "shards": Composed(
        "data sets, or your own videos, to WebDataset shards (also: shards verify|index|stats DIR)",
        "ShardsConfig",
        "edgetam_pl.data.build",
        "edgetam shards source=davis root=DAVIS out=shards/davis",
    ),
    "train": Composed(
        "train a model, alone or taught by another; continues where it stopped",
        "TrainConfig",
        "edgetam_pl.training.fit",
        "edgetam train stage=video model@teacher=sam2.1_hiera_base_plus teacher_weights=sam2.1_hiera_base_plus.pt",
    ),
    "evaluate": Composed(
        "J&F and the other protocols of the paper's tables, with pictures",
        "EvaluateConfig",
        "edgetam_pl.evaluation.runner",
        "edgetam evaluate weights=runs/stage2/weights.pt dataset=davis17 root=DAVIS",
    ),
    "export": Composed(
        "packages for the phone, proven equal to the checkpoint",
        "ExportConfig",
        "edgetam_pl.exporting.run",
        "edgetam export weights=runs/stage2/weights.pt out=packages",
    ),
    "bench": Composed(
        "latency by verb, per object count; the last line is JSON",
        "BenchConfig",
        "edgetam_pl.commands.bench",
        "edgetam bench model=edgetam device=cpu",
    ),
    "show": Composed(
        "a model as a tree: parameters, shapes, FLOPs per verb; needs no data",
        "ShowConfig",
        "edgetam_pl.commands.show",
        "edgetam show model=edgetam",
    ),
    "plan": Composed(
        "memory, step time and wall-clock of a training, before anything is allocated",
        "TrainConfig",
        "edgetam_pl.commands.plan",
        "edgetam plan stage=video model=edgetam trainer=gpu8",
    ),
    "split": Flagged("your videos to lists that train, validate and test", "edgetam_pl.commands.split"),
    "demo": Flagged("the whole job on generated data, on a CPU (make demo)", "edgetam_pl.commands.demo"),
    "track": Flagged("follow objects through a video from points, boxes or masks", "edgetam_pl.commands.track"),
    "app": Flagged("a local web page to click on a video and watch it track", "edgetam_pl.commands.app"),
    "score": Flagged("score a folder of predictions against a folder of truth", "edgetam_pl.commands.score"),
    "compare": Flagged("two evaluations side by side", "edgetam_pl.commands.compare"),
    "before-after": Flagged(
        "what a training was worth: two checkpoints on the same videos", "edgetam_pl.commands.before_after"
    ),
    "sweep": Flagged(
        "many trainings from a W&B sweep file, here or with a server (make sweep-local, make sweep)",
        "edgetam_pl.sweeps.local",
    ),
    "trial": Flagged("one training of a sweep: train, score, measure what it costs", "edgetam_pl.sweeps.trial"),
    "sweep-report": Flagged("table, Pareto front and plots of a sweep", "edgetam_pl.sweeps.report"),
    "weights": Flagged("convert and inspect checkpoints", "edgetam_pl.commands.weights"),
    "replay": Flagged("run a batch again that broke a training", "edgetam_pl.commands.replay"),
    "doctor": Flagged("can this environment train and export? what to install if not", "edgetam_pl.commands.doctor"),
}

SUBCOMMANDS: dict[tuple[str, str], Flagged] = {
    ("shards", "verify"): Flagged("check shards: manifest, sha256, every member", "edgetam_pl.data.verify"),
    ("shards", "index"): Flagged("write the index of all shards anew, from their tars", "edgetam_pl.data.reindex"),
    ("shards", "stats"): Flagged("what shards hold, as a table and a picture", "edgetam_pl.data.stats"),
}

RENAMED = {"pipeline": "demo", "report": "compare"}
"""Commands by names that they had before."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Mistakes of the caller end in one sentence, not in a traceback."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else ""
    with stop.listening(together=name == TOGETHER) if name in STOPPABLE else nullcontext():
        return _main(words)


def _main(words: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # or a log file shows nothing of a run before its end
    if not words or words[0] in {"-h", "--help", "help"}:
        _say(overview())
        return 0
    if words[0] == "--version":
        print(VERSION)
        return 0
    name, rest = words[0], words[1:]
    command = COMMANDS.get(name)
    if command is None:
        print(f"edgetam: {_unknown_command(name)}", file=sys.stderr)
        return 2
    try:
        if rest and (name, rest[0]) in SUBCOMMANDS:
            return _status(_load(SUBCOMMANDS[name, rest[0]].module, "main")(rest[1:]))
        if isinstance(command, Flagged):
            return _status(_load(command.module, "main")(rest))
        return _run_composed(name, command, rest)
    except (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        print(f"edgetam {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"edgetam {name}: {_missing(error)}", file=sys.stderr)
        return 2
    except ExplainedError as error:
        print(f"edgetam {name}: {error}", file=sys.stderr)
        return 1
    except stop.Stopped as told:
        print(f"edgetam {name}: {told}", file=sys.stderr)
        return stop.TRY_AGAIN
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"edgetam {name}: {error.strerror}", file=sys.stderr)  # a full disk is no bug; the writer says what to do
        return 2
    except KeyboardInterrupt:
        print(
            f"edgetam {name}: interrupted; the same command continues from the last checkpoint or finished part.",
            file=sys.stderr,
        )
        return 130


def _unknown_command(name: str) -> str:
    if name in RENAMED:
        return f"the command {name} is now called {RENAMED[name]}: edgetam {RENAMED[name]} ..."
    return f"there is no command {name!r}; known ones: {', '.join(COMMANDS)}.{did_you_mean(name, COMMANDS)}"


def _say(text: str) -> None:
    """Print a long text. Its reader may have seen enough before the end (`| head`); that is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit


def overview() -> str:
    """What `edgetam --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [
        f"EdgeTAM-PL {VERSION}: train, evaluate and ship EdgeTAM.",
        "",
        "edgetam COMMAND --help tells more.",
        "",
    ]
    for kind, title in ((Composed, "configured by key=value words"), (Flagged, "with flags")):
        lines.append(f"{title}:")
        lines += [f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items() if isinstance(c, kind)]
        lines.append("")
    return "\n".join(lines)


def _run_composed(name: str, command: Composed, words: list[str]) -> int:
    from edgetam_pl.commands.compose import composed

    if "-h" in words or "--help" in words:
        _say(_help(name, command))
        return 0
    overrides = [word for word in words if word not in {"--cfg", "job"}]
    cfg, raw = composed(getattr(config, command.schema), command=name, overrides=overrides)
    if "--cfg" in words:
        own = [f"# {path} of this folder is used in place of the package's." for path in resources.shadowing()]
        _say("\n".join([*own, OmegaConf.to_yaml(raw).rstrip()]))
        return 0
    _refuse_impossible_models(cfg)
    return _status(_load(command.module, "run")(cfg))


def _refuse_impossible_models(cfg: Any) -> None:
    """What no model can be is refused as soon as it is read, whatever the command would do first."""
    for value in vars(cfg).values():
        if isinstance(value, config.ModelConfig):
            from edgetam_pl.build import validate  # torch and timm, which commands without a model do without

            validate(value)


def _status(result: Any) -> int:
    """Commands return an exit status or a result; a result means success."""
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _load(module: str, function: str) -> Callable[[Any], Any]:
    loaded = import_module(module)
    begun()
    return getattr(loaded, function)


EXTRAS = {
    "submitit": "cluster",
    "coremltools": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "sklearn": "export",
    "transformers": "transformers",
}
"""Module -> the extra that installs it."""


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        raise error
    return f"this needs the package {package}; install it with: pip install 'edgetam-pl[{EXTRAS[package]}]'"


def _help(name: str, command: Composed) -> str:
    """Groups and keys of a composed command, each key with its default and the docstring of its field."""
    lines = [f"edgetam {name}: {command.summary}", "", f"  {command.example}", ""]
    lines.append(
        f"Words are key=value. Defaults: configs/{name}.yaml. --cfg job prints the composed configuration and stops."
    )
    entry = resources.find(resources.CONFIGS, f"{name}.yaml")
    groups = _groups(entry) if entry else []
    if groups:
        lines += ["", "Groups (group=choice):"]
        lines += [f"  {group:<9} {', '.join(resources.names(resources.CONFIGS, group))}" for group in groups]
    if name == "train":
        lines.append(f"  experiment {', '.join(resources.names(resources.EXPERIMENTS))}")
        lines.append(f"  scale {', '.join(resources.names(resources.EXPERIMENTS, 'scales'))}")
    lines += ["", "Keys:", *_keys(getattr(config, command.schema), prefix="")]
    return "\n".join(lines)


def _groups(path: Path) -> list[str]:
    loaded = OmegaConf.to_container(OmegaConf.load(path))
    defaults = loaded.get("defaults", []) if isinstance(loaded, dict) else []
    return [key for entry in defaults if isinstance(entry, dict) for key in entry if "@" not in key and "/" not in key]


def _keys(schema: type, *, prefix: str) -> list[str]:
    lines: list[str] = []
    docs = field_docs(schema)
    for field in dataclasses.fields(schema):
        inner = _dataclass_of(field)
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
        if inner is not None and not isinstance(default, list):
            lines += (
                _keys(inner, prefix=f"{prefix}{field.name}.") if default is not None else [f"  {prefix}{field.name}=null"]
            )
            continue
        shown = "[...]" if inner is not None else "null" if default is None else str(default) if default != "" else "''"
        lines.append(f"  {prefix}{field.name}={shown}")
        lines += textwrap.wrap(docs.get(field.name, ""), 100, initial_indent="      ", subsequent_indent="      ")
        if inner is not None:
            lines += [f"    {line}" for line in _keys(inner, prefix="- ")]
    return lines


def _dataclass_of(field: dataclasses.Field[Any]) -> type | None:
    """The dataclass a field holds, alone, optional or in a list."""
    return next((getattr(config, name) for name in re.findall(r"\w+", str(field.type)) if name in config.__all__), None)


def field_docs(schema: type) -> dict[str, str]:
    """The strings under the fields of a dataclass: its documentation, read from the source."""
    defined = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(defined, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(defined.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    sys.exit(main())
