"""Sweep files, latents in words, Pareto fronts and reports: what needs no trial."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edgetam_pl.commands.compose import composed, expand, latents
from edgetam_pl.config import TrainConfig
from edgetam_pl.sweeps.cost import arithmetic, package_bytes
from edgetam_pl.sweeps.outcomes import COSTS, Outcome, front_cost, gather, pareto, read_outcomes
from edgetam_pl.sweeps.report import write_report
from edgetam_pl.sweeps.samplers import draws, proposals
from edgetam_pl.sweeps.sweep_config import ARGUMENTS, StopRule, Sweep, distribution


def sweep(parameters: dict[str, dict[str, object]], *, method: str = "grid") -> Sweep:
    space = {key: distribution(key, given) for key, given in parameters.items()}
    return Sweep("s", method, "trial/jf", True, space, ("scale=toy", ARGUMENTS), None, None, {})


def outcome(name: str, jf: float, ms: float, *words: str) -> Outcome:
    model = {"kind": "perceiver", "global_latents": 1, "spatial_latents": 1}
    return Outcome(name, "finished", words, {"trial/jf": jf, "trial/latency_ms/step": ms}, {"model": model, "cost": {}})


def test_a_grid_is_every_combination_with_the_last_key_fastest() -> None:
    points = list(sweep({"a": {"values": [1, 2]}, "b.c": {"values": ["x", "y"]}}).grid())
    assert [point.words for point in points] == [
        ("scale=toy", f"a={a}", f"b.c={b}") for a, b in itertools.product((1, 2), ("x", "y"))
    ]
    assert points[0].name.startswith("a-1_c-x-")
    assert len({point.name for point in points}) == 4


def test_draws_stay_in_their_range_and_repeat() -> None:
    ranges: dict[str, dict[str, object]] = {"i": {"min": 1, "max": 3}, "x": {"min": 0.5, "max": 1.0}}
    ranges["l"] = {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}
    drawn = list(itertools.islice(draws(sweep(ranges)), 50))
    assert {point.values["i"] for point in drawn} == {1, 2, 3}
    assert all(0.5 <= p.values["x"] <= 1 and 1e-4 <= p.values["l"] <= 1e-2 for p in drawn)
    assert drawn == list(itertools.islice(draws(sweep(ranges)), 50))
    assert next(draws(sweep({"v": {"value": 7}}))).values == {"v": 7}


def test_a_large_space_is_checked_value_by_value() -> None:
    large = sweep({f"k{i}": {"values": list(range(10))} for i in range(4)})
    points = list(large.validation_points())
    assert len(points) == 40
    assert {point.values["k2"] for point in points} == set(range(10))
    assert large.size == 10_000
    ends = sweep({"k": {"min": 2, "max": 9}})
    assert [point.values["k"] for point in ends.validation_points()] == [2, 9]


def test_values_that_are_lists_become_words() -> None:
    points = sweep({"stage.phases": {"values": [[{"frames": 2}], [{"frames": 4}]]}}).grid()
    assert [point.words[-1] for point in points] == ["stage.phases=[{'frames': 2}]", "stage.phases=[{'frames': 4}]"]


def test_an_extended_sweep_runs_what_is_new(tmp_path: Path) -> None:
    """With a value more, and a range that is narrower, earlier trials count where they still belong to the space."""

    def space(values: list[int], most: int) -> Sweep:
        return sweep({"a": {"values": values}, "b": {"min": 1, "max": most}}, method="bayes")

    known = [outcome("one", 50.0, 1.0, "scale=toy", "a=1", "b=2"), outcome("two", 60.0, 1.0, "scale=toy", "a=1", "b=9")]
    first, *new = itertools.islice(proposals(space([1, 2], 5), lambda: known), 4)
    assert first.values == {"a": 1, "b": 2}
    assert len({point.name for point in new} - {first.name}) == 3
    assert all(point.values["b"] <= 5 for point in new)
    few = sweep({"a": {"values": [1, 2, 3]}}, method="bayes")
    assert {point.values["a"] for point in proposals(few, lambda: [])} == {1, 2, 3}  # a small space ends, whatever the cap


@pytest.mark.parametrize(
    ("said", "wrong"),
    [({"vlaues": [1]}, "give value"), ({"values": []}, "list of values"), ({"values": [None]}, "'null'"),
     ({"min": 3, "max": 1}, "below max"), ({"min": 1, "max": 2, "distribution": "normal"}, "int_uniform")],
)  # fmt: skip
def test_a_parameter_that_is_none_is_refused(said: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        distribution("k", said)


def test_bands_are_those_of_wandb() -> None:
    assert StopRule.read({"type": "hyperband", "min_iter": 3}).bands[:3] == (3, 9, 27)
    assert StopRule.read({"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}).bands == (3, 9)


def test_latents_are_numbers_of_the_paper_that_a_scale_converts() -> None:
    kind = "model.compressor.kind="
    both = ("model.compressor.global_latents=16", "model.compressor.spatial_latents=4")
    assert latents("256/64", of_256=16) == (f"{kind}perceiver", *both)
    assert latents("none") == (f"{kind}none",)
    assert latents("pool2") == (f"{kind}pooling", "model.compressor.pool=2")
    for wrong in ("0/0", "256", "8/0"):
        with pytest.raises(ValueError, match="latents="):
            latents(wrong, of_256=16)


def test_a_scale_replaces_choices_and_its_own_words_give_way() -> None:
    words = expand(["experiment=tab3b_global", "scale=toy", "checkpoint_every=7"])
    assert "model=toy" in words
    assert "model=edgetam" not in words
    assert "model.compressor.global_latents=16" in words
    assert words.index("checkpoint_every=50") < words.index("checkpoint_every=7")
    with pytest.raises(ValueError, match="known ones: full, small, toy"):
        expand(["scale=huge"])


def test_seeds_are_one_configuration_and_what_varies_is_its_name() -> None:
    trials = [
        outcome(f"t{a}{s}", 50 + a + s, 1.0, "scale=toy", f"a={a}", f"seed={s}", f"out=x{a}{s}")
        for a in (0, 10)
        for s in (1, 2, 3)
    ]
    first, second = gather(trials, metric="trial/jf")
    assert (first.label, second.label) == ("a=0", "a=10")
    assert first.scores == [51, 52, 53]
    assert (first.mean, first.spread) == (52, 1)
    assert second.cost("trial/latency_ms/step") == 1.0
    assert second.cost("trial/parameters") is None


def test_the_front_is_what_nothing_beats_in_both() -> None:
    places = {"slow": (60.0, 9.0), "good": (60.0, 5.0), "poor": (50.0, 6.0), "fast": (40.0, 1.0), "even": (40.0, 1.0)}
    found = gather([outcome(name, *place, f"a={name}") for name, place in places.items()], metric="trial/jf")
    front = pareto(found, "trial/latency_ms/step", maximize=True)
    assert [c.label for c in front] == ["a=fast", "a=even", "a=good"]
    assert front_cost(found) == "trial/latency_ms/step"
    assert "trial/memory_tokens" in COSTS


def test_an_empty_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trials"):
        write_report(tmp_path)
    (tmp_path / "trials" / "a").mkdir(parents=True)
    assert [found.status for found in read_outcomes(tmp_path)] == ["unfinished"]
    assert "| a | unfinished |  |" in write_report(tmp_path).read_text()


def test_the_size_of_packages_is_that_of_all_their_files(tmp_path: Path) -> None:
    assert package_bytes(tmp_path) is None
    (tmp_path / "packages" / "A.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "packages" / "A.mlpackage" / "Data" / "weights.bin").write_bytes(b"12345")
    (tmp_path / "packages" / "B.onnx").write_bytes(b"123")
    (tmp_path / "packages" / "README.md").write_text("not a package")
    assert package_bytes(tmp_path) == 8


@pytest.mark.parametrize(("name", "tokens"), [("toy", 32), ("toy_teacher", 64)])
def test_arithmetic_counts_what_memory_attention_reads(name: str, tokens: int) -> None:
    said = arithmetic(composed(TrainConfig, command="train", overrides=[f"model={name}"])[0].model)
    assert said["memory_tokens"] == tokens
    assert said["bank_tokens"] == 7 * tokens
    assert said["gflops"]["total"] == pytest.approx(sum(v for k, v in said["gflops"].items() if k != "total"))
