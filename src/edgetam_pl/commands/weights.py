"""`edgetam weights`: what is in a checkpoint, and checkpoints from one layout to the other."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.config import ModelConfig
from edgetam_pl.config.choices import Flags
from edgetam_pl.io import released
from edgetam_pl.io.environment import VERSION

LAYOUTS = {
    "official": "official names",
    "ours": "ours: {state_dict: student.*}",
    "huggingface": "Hugging Face's names",
}


def main(argv: list[str]) -> int:
    """`edgetam weights inspect FILE` and `edgetam weights convert IN OUT`; returns the exit status.

    Raises:
        ValueError: a file that is missing, truncated, no checkpoint, or of another model.
    """
    parser = Flags(prog="edgetam weights", description="Look into checkpoints, and convert them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect | convert")
    look = commands.add_parser("inspect", help="which model a file seems to hold, and what our training wrote about it")
    look.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a checkpoint: official (or its name: edgetam), Hugging Face's, or ours",
    )
    look.add_argument("--keys", action="store_true", help="list every tensor with its shape")
    change = commands.add_parser(
        "convert", help="official file to our checkpoint, or the other way; strict, nothing is left out or made up"
    )
    change.add_argument("source", type=Path, metavar="IN", help="checkpoint to read, in any layout")
    change.add_argument("target", type=Path, metavar="OUT", help="file to write (transformers: folder)")
    change.add_argument(
        "--model", nargs="+", default=[], metavar=("NAME", "model.KEY=VALUE"),
        help="configs/model/NAME.yaml, and settings on top of it (default: what our checkpoint says)",
    )  # fmt: skip
    change.add_argument(
        "--to", choices=["official", "ours", "transformers"],
        help="layout of OUT (default: the one of the first two that IN does not have)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.command == "inspect":
        print(inspect(_file(args.file), keys=args.keys))
    else:
        print(convert(_file(args.source), args.target, model=args.model, to=args.to))
    return 0


def _file(given: Path) -> Path:
    """The file, or that of the release of this name. Raises ValueError where a release cannot be downloaded."""
    return released.fetched(str(given)) if released.is_name(given) else given


def inspect(path: Path, *, keys: bool = False) -> str:
    """What a checkpoint holds, as text. `keys` adds every tensor."""
    state, layout, card, _ = weights.contents(path)
    parameters = sum(tensor.numel() for tensor in state.values())
    lines = [
        f"{path}",
        f"layout      {LAYOUTS[layout]}",
        f"tensors     {len(state):,} with {parameters:,} numbers ({_types(state)})",
        f"model       {_model(state, card)}",
    ]
    for name, value in (card or {}).items():
        if name != "model":
            lines.append(f"{name:<11} {_in_words(value)}")
    if keys:
        lines += [
            f"  {name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in state.items()
        ]
    return "\n".join(lines)


def convert(source: Path, target: Path, *, model: Sequence[str] = (), to: str | None = None) -> str:
    """Write `source` in the other layout (or in `to`) as `target`, which appears only when it is whole.

    `model` is a name of the zoo followed by overrides; empty: what the checkpoint records.

    Raises:
        ValueError: the model is neither named nor recorded in the file, or the file does not fit it.
    """
    found = weights.contents(source)
    cfg = _config(source, found, model)
    if to == "transformers":
        from edgetam_pl.exporting.transformers_layout import save_for_transformers

        return f"{target}: {cfg.name}, for Transformers' {save_for_transformers(source, target, cfg)}"
    built = weights.load_into(build_model(cfg), source)  # the card is not compared: --model says what it should be
    official = found.layout != "official" if to is None else to == "official"
    card = dict(found.card or {}) | {"model": dataclasses.asdict(cfg), "version": VERSION}
    (weights.save_official if official else weights.save_ours)(built, target, card)
    return f"{target}: {cfg.name}, {'official' if official else 'our'} layout, {len(found.state)} tensors"


def _config(source: Path, found: weights.Contents, model: Sequence[str]) -> ModelConfig:
    if model:
        return model_config(*model)
    recorded = found.model
    if recorded is None:
        guess = weights.seems_to_be(found.state)
        hint = f"it looks like {guess}: --model {guess}" if guess else "give --model NAME"
        raise ValueError(f"{source} does not say which model it is of; {hint}.")
    return recorded


def _model(state: dict[str, torch.Tensor], card: dict[str, Any] | None) -> str:
    """The model's name: the recorded one, or the one whose names and shapes these are."""
    if card is not None and "model" in card:
        return f"{card['model']['name']} (recorded), {card['model']['image_size']} px"
    guess = weights.seems_to_be(state)
    if guess is None:
        return "of no known shape"
    with torch.device("meta"):
        built = build_model(model_config(guess))
    expected = {weights.official_name(name): tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    different = sum(shapes.get(name) != expected.get(name) for name in {*shapes, *expected})
    if not different:
        return f"{guess} (every name and shape)"
    return f"like {guess}, but {different} of {len(expected)} tensors differ: other settings, or a variant"


def _in_words(value: Any) -> str:
    """A value of a card on one line: {a: 1, b: [2]} as a 1, b (2)."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(f"({_in_words(one)})" for one in value)
    return str(value)


def _types(state: dict[str, torch.Tensor]) -> str:
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
