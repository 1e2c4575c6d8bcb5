"""Every YAML composes, validates and builds; mistakes are answered in one sentence that names the key."""

from __future__ import annotations

import dataclasses
import doctest
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

import edgetam_pl.commands.compose as compose_module
from edgetam_pl import config
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import CONFIGS, EXPERIMENTS, composed, model_config, model_for
from edgetam_pl.commands.main import field_docs
from edgetam_pl.config import EvaluateConfig, ModelConfig, TrainConfig, choices
from edgetam_pl.losses.distill import DISTANCES
from edgetam_pl.sweeps import local
from edgetam_pl.sweeps.sweep_config import read_sweep
from edgetam_pl.training.fit import build_module, check
from edgetam_pl.training.step import STAGES
from edgetam_pl.weights import CARD, write

GROUPS = ("model", "stage", "data", "trainer", "logger", "launcher")
ENTRIES = ("train", "plan", "evaluate", "bench", "export", "shards", "show", "trial")
FILES = sorted(path for root in (CONFIGS, EXPERIMENTS) for path in root.rglob("*.yaml"))
EXPERIMENT_FILES = sorted(EXPERIMENTS.glob("*.yaml"))
SCALES = sorted(path.stem for path in (EXPERIMENTS / "scales").glob("*.yaml"))
SWEEPS = sorted((EXPERIMENTS / "sweeps").rglob("*.yaml"))


@cache
def compose(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=list(words))[0]


@cache
def parameters_of(model: str) -> int:
    """Parameters of a model that takes no memory, by its configuration in words; each is built once."""
    with torch.device("meta"):
        built = build_model(MODELS[model])
    return sum(p.numel() for p in built.parameters())


MODELS: dict[str, ModelConfig] = {}


def builds(cfg: ModelConfig) -> bool:
    MODELS[repr(cfg)] = cfg
    return parameters_of(repr(cfg)) > 0


def test_no_yaml_is_forgotten() -> None:
    """Whatever lies in configs/ or experiments/ is one of the kinds that the tests below go through."""
    known = {CONFIGS / f"{name}.yaml" for name in ENTRIES} | {*EXPERIMENT_FILES, *SWEEPS}
    known |= {path for group in GROUPS for path in (CONFIGS / group).rglob("*.yaml")}
    known |= {EXPERIMENTS / "scales" / f"{name}.yaml" for name in SCALES}
    kept = set((EXPERIMENTS / "results").glob("*/sweep.yaml"))  # as they were run; what has been found stays readable
    assert all(read_sweep(path).name for path in kept)
    assert set(FILES) == known | kept


@pytest.mark.parametrize(
    "path", sorted(p for g in GROUPS for p in (CONFIGS / g).rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_group_file_composes(path: Path) -> None:
    assert compose(f"{path.parent.name}={path.stem}") is not None


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml")))
def test_every_model_builds_without_memory(name: str) -> None:
    assert builds(compose(f"model={name}").model)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", EXPERIMENT_FILES, ids=lambda path: path.stem)
def test_every_experiment_composes_and_builds_at_every_scale(path: Path, scale: str) -> None:
    cfg = compose(f"experiment={path.stem}", f"scale={scale}")
    check(cfg)
    assert builds(cfg.model)
    assert cfg.teacher is None or builds(cfg.teacher)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_holds_legal_points_alone(path: Path) -> None:
    assert all(builds(planned.train.model) for planned in local.check(read_sweep(path)))


def test_the_rows_of_table_3_differ_in_what_they_are_about() -> None:
    """The released model is each table's reference row; every other row changes what its name says, and nothing else."""
    names = [path.stem for path in EXPERIMENT_FILES if path.stem.startswith("tab3")]
    rows = {name: compose(f"experiment={name}", "scale=full") for name in names}
    latents = {
        name: (cfg.model.compressor.global_latents, cfg.model.compressor.spatial_latents) for name, cfg in rows.items()
    }
    assert latents["tab3b_global"] == (256, 0)
    assert latents["tab3b_spatial"] == (0, 256)
    assert latents["tab3b_g256_l256"] == (256, 256)
    assert [rows[f"tab3a_{name}"].model.compressor.kind for name in ("dense", "pooled", "perceiver")] == [
        "none",
        "pooling",
        "perceiver",
    ]
    assert [rows[f"tab3c_{name}"].model.memory_blocks for name in ("1block", "2blocks", "4blocks")] == [1, 2, 4]
    assert not rows["tab3d_no_self_attention"].model.compressor.self_attention
    assert rows["tab3d_self_attention_2d"].model.compressor.self_attention_2d == "paper"
    taught = {name for name, cfg in rows.items() if cfg.teacher is not None}
    assert taught == {name for name in rows if name.startswith(("tab3a_distilled", "tab3c"))}
    assert {cfg.stage.phases[0].steps for cfg in rows.values()} == {43000}


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "stage").glob("*.yaml")))
def test_every_stage_is_a_possible_one(name: str) -> None:
    check(compose(f"stage={name}"))


def test_focal_and_dice_follow_table_5_not_the_body_text() -> None:
    weights = compose("stage=video").stage.weights
    assert (weights.focal, weights.dice) == (20, 1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.compresor.kind=none"], "compresor"),
        (["model.memory_blocks=two"], "Integer"),
        (["model=edgtam"], "edgetam"),
        (["experiment=tab9"], "tab9"),
        (["stage.phases=[{frames:8,stps:3}]"], "stps"),
    ],
)
def test_a_mistake_is_named(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        compose(*words)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["stage.name=films"], "stage.name"),
        (["stage.phases=[]"], "phases"),
        (["stage.phases=[{frames:8,steps:10}]"], "warmup"),
        (["stage=image", "stage.phases=[{frames:2,steps:200000}]"], "frames"),
        (["weights=a.pt", "trunk_weights=b.pth"], "give one of them"),
        (["model@teacher=edgetam"], "teacher_weights"),
        (["model@teacher=edgetam", "teacher_weights=t.pt", "teacher.image_size=520"], "520"),
    ],
)
def test_an_impossible_training_is_refused_before_anything_is_built(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check(compose(*words))


def test_training_starts_the_trunk_from_the_file_it_is_given(tmp_path: Path) -> None:
    words = ("model=toy", "stage=toy_video", "logger=none")
    trunk = build_model(compose(*words).model).image_encoder.trunk.body.state_dict()
    given = {name: torch.full_like(tensor, 3) for name, tensor in trunk.items()}
    torch.save({name.replace("stages_", "stages."): tensor for name, tensor in given.items()}, tmp_path / "trunk.pth")
    module = build_module(compose(*words, f"trunk_weights={tmp_path / 'trunk.pth'}"))
    found = module.student.image_encoder.trunk.body.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


PATHS = (
    "ck/epoch=3-step=100.ckpt", "a,b.pt", "模型.pt", "final (1).pt", "x[1].pt", "it's.pt", "a b.pt", "{x}.pt", "50%.pt",
    "runs/with = and, comma", "back\\slash", "ends\\", "#1.pt", "null.pt", 'say "x".pt', "a:b.pt", "@x", "-x.pt", "1e3",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_stands(path: str) -> None:
    cfg = compose(f"weights={path}", f"out={path}", f"validation.root={path}")
    assert (cfg.weights, cfg.out, cfg.validation.root) == (path, path, path)
    found = composed(EvaluateConfig, command="evaluate", overrides=[f"weights={path}", f"root={path}"])[0]
    assert (found.weights, found.root) == (path, path)


def test_home_null_quotes_and_other_keys_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert compose("weights=~/x.pt", "seed=4").weights == "/home/somebody/x.pt"
    assert compose("weights=null", "seed=5").weights is None
    assert compose("out='a b'", "seed=6").out == "a b"
    assert compose("out=runs/${model.name}", "seed=7").out == "runs/edgetam"


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["model=edgtam"], "edgetam"),
        (["stage=vidoe"], "video"),
        (["model@teacher=toy_techer"], "toy_teacher"),
        (["experiment=tab3b_globl"], "tab3b_global"),
        (["scale=tyo"], "toy"),
        (["--dry-run"], "dry_run"),
        (["model.memory_block=3"], "memory_blocks"),
        (["wieghts=a.pt"], "weights"),
        (["stage.candidates=bets"], "best"),
        (["logger.kind=wandbb"], "wandb"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(words: list[str], nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"Did you mean {re.escape(nearest)}\?"):
        compose(*words)


@pytest.mark.parametrize(
    ("word", "new"),
    [
        ("weights_for=images", "load_parts=images"),
        ("model.locality=3", "model.cross_attention_bias_init=3"),
        ("teacher.locality=3", "teacher.cross_attention_bias_init=3"),
    ],
)
def test_a_key_of_earlier_versions_is_answered_with_its_new_name(word: str, new: str) -> None:
    with pytest.raises(ValueError, match=f"use {re.escape(new)}"):
        compose(word)


def test_a_teacher_may_be_named_without_its_group() -> None:
    assert compose("teacher=toy_teacher").teacher == compose("model@teacher=toy_teacher").teacher


def test_every_field_of_the_schema_is_documented() -> None:
    for name in config.__all__:
        schema = getattr(config, name)
        assert {field.name for field in dataclasses.fields(schema)} == set(field_docs(schema)), name


def test_what_the_modules_accept_is_what_the_schema_declares() -> None:
    """A choice that is declared with its field is the same list where it is understood."""
    choices = {field.name: field.metadata.get("choices") for field in dataclasses.fields(config.StageConfig)}
    assert set(choices["name"]) == set(STAGES)
    assert set(choices["distance"]) == set(DISTANCES)


@pytest.mark.parametrize("module", [choices, compose_module])
def test_examples_in_docstrings_are_right(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("scale", ["toy", "small"])
def test_a_model_without_a_counterpart_at_a_scale_is_refused(scale: str) -> None:
    with pytest.raises(ValueError, match=rf"scale={scale} has no counterpart of model=edgetam_global, .*those of edgetam, "):
        compose(f"scale={scale}", "model=edgetam_global")


def test_a_scale_takes_the_papers_variant_and_models_of_its_own() -> None:
    cfg = compose("scale=toy", "model=edgetam_paper")
    assert (cfg.model.name, cfg.model.compressor.self_attention_2d) == ("toy", "paper")
    assert compose("scale=toy", "model=toy_teacher").model.name == "toy_teacher"
    assert compose("scale=full", "model=edgetam_global").model.name == "edgetam_global"


# ---------------------------------------------------------------------- the model that weights record


def recorded(path: Path, cfg: config.ModelConfig) -> Path:
    """A file with a card; its tensors do not matter here."""
    write({"model": {"w": torch.zeros(1)}, CARD: {"model": dataclasses.asdict(cfg)}}, path)
    return path


@pytest.mark.parametrize("command", ["evaluate", "export", "bench", "train"])
def test_weights_that_say_their_model_need_no_other_word(tmp_path: Path, command: str) -> None:
    cfg = dataclasses.replace(model_config("toy"), name="mine", image_size=192)
    path = recorded(tmp_path / "x = [1].pt", cfg)
    schema = getattr(config, f"{command.capitalize()}Config")
    words = [f"weights={path}", *(["data=toy"] if command == "train" else [])]  # weights are not trained on toys unsaid
    found = composed(schema, command=command, overrides=words)[0]
    assert found.model == cfg
    assert composed(schema, command=command, overrides=[*words, "model=lite"])[0].model.name == "lite"
    # a setting on top of the recorded model, not of the default one
    changed = composed(schema, command=command, overrides=[*words, "model.dropout=0.3"])[0].model
    assert changed == dataclasses.replace(cfg, dropout=0.3)


def test_parts_of_weights_do_not_choose_the_model(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.pt", model_config("toy"))
    assert compose(f"weights={path}", "load_parts=images", "data=toy").model.name == "edgetam"


def test_a_model_is_the_named_one_or_the_recorded_one_or_edgetam(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.pt", model_config("toy"))
    names = [
        model_for(name, weights).name for name, weights in ((None, path), ("lite", path), (None, "random"), (None, None))
    ]
    assert names == ["toy", "lite", "edgetam", "edgetam"]
