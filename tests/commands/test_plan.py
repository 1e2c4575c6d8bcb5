"""What `edgetam plan` promises: nothing is allocated, estimates hold against one measured step, impossible is refused."""

from __future__ import annotations

import pytest
import smallest
import torch

from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.main import main
from edgetam_pl.commands.plan import _cost, _flops, _knob, answers, describe, kept_for_backward, measure, most_answers, ranks
from edgetam_pl.commands.show import verbs
from edgetam_pl.config import PromptConfig, TrainConfig
from edgetam_pl.types import VERBS

SMALL = ("model=toy", "stage=toy_video", *smallest.SMALL, "stage.optim.warmup=0")


def plan(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="plan", overrides=list(words))[0]


def test_prompts_are_counted_from_the_plan_that_training_draws() -> None:
    """Half the clips by masks on 1 or 2 frames; of the others 1/4 with one frame corrected, 3/4 with two (SAM 2 release)."""
    initial, clicks = answers(PromptConfig(), 8, draws=4096)
    assert initial == pytest.approx(1.5, abs=0.05)
    assert clicks == pytest.approx(0.5 * (0.25 * 1 + 0.75 * 2) * 7, rel=0.05)
    assert most_answers(PromptConfig(), 8) == 8 + 2 * 7
    assert most_answers(PromptConfig(point_prob=0.0), 8) == 8


def test_ranks_are_devices_times_nodes() -> None:
    assert ranks(plan("trainer=gpu8", "trainer.num_nodes=4")) == 32
    assert ranks(plan("trainer.devices=[0,1]")) == 2


def test_attention_is_counted_frame_by_frame_with_the_memories_that_are_there_by_then() -> None:
    with torch.device("meta"):
        model = build_model(plan(*SMALL).model)
    each = {t: verbs(model, memories=min(t, 7), pointers=min(t, 16))[VERBS.index("attend")].flops for t in range(1, 18)}
    flops = _flops(model)
    for frames in (2, 5, 18):
        assert flops(frames)["attend"] == pytest.approx(sum(each[t] for t in range(1, frames)) / (frames - 1))
    assert each[1] < each[7] < each[16] == each[17]


@pytest.mark.parametrize(
    ("frames", "frozen", "words"),
    [
        (8, False, ()),
        (16, True, ()),
        (32, True, ()),
        (8, False, ("activation_checkpointing=true",)),
        (16, True, ("activation_checkpointing=true", "recompute=[encode,memorize]")),
        (8, False, ("object_chunk=1",)),
    ],
)
def test_f20_the_estimate_of_memory_holds_against_a_measured_step(frames: int, frozen: bool, words: tuple[str, ...]) -> None:
    """What a step keeps lies within the plan's bound, and the bound is not idle."""
    phase = f"stage.phases=[{{frames:{frames},steps:10,batch:1,freeze_encoder:{str(frozen).lower()},distil:false}}]"
    cfg = plan(*SMALL, *words, phase, "stage.max_objects=3")
    keeps = kept_for_backward(cfg)
    flops = dict.fromkeys(VERBS, 1.0)
    estimate = _cost(cfg, cfg.stage.phases[0], cfg.data.sources[0], flops, {}, keeps).kept
    found = measure(cfg, 0).kept
    assert found <= estimate
    if cfg.activation_checkpointing or cfg.object_chunk:
        return  # what is recomputed comes and goes during the backward pass, where it is not seen
    assert estimate < 3 * found


def test_a_small_plan_is_measured_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    phases = "stage.phases=[{frames:2,steps:100,batch:2},{frames:4,steps:50,batch:1,freeze_encoder:true,distil:false}]"
    assert main(["plan", *SMALL, phases]) == 0
    said = capsys.readouterr().out
    for words in ("parameters", "phase 1 of 2", "phase 2 of 2", "estimated", "measured", "a step", "knob", "total"):
        assert words in said
    assert "encoder frozen" in said


def test_the_paper_s_schedule_is_planned_without_a_gpu() -> None:
    said = describe(plan("model=edgetam", "stage=progressive", "trainer=gpu8"))
    assert "13,895,794 parameters" in said
    assert "assumed" in said
    assert "phase 3 of 3: 32 frames" in said
    assert "measured" not in said


@pytest.mark.parametrize(
    ("words", "named"), [("stage.phases=[{frames:8,steps:10}]", "warmup"), ("stage.name=films", "films")]
)
def test_the_impossible_is_refused(words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", words]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ((), "do not fit into 1.0 GiB; set activation_checkpointing=true"),
        (("activation_checkpointing=true",), "memory: set object_chunk="),
        (("activation_checkpointing=true", "object_chunk=1", "stage.phases.0.batch=4"), "halve batch to 2"),
        (("activation_checkpointing=true", "object_chunk=1", "stage.phases.0.batch=1"), "lower stage.max_objects"),
        (
            ("activation_checkpointing=true", "object_chunk=1", "stage.phases.0.batch=1", "stage.max_objects=1"),
            "a smaller model.image_size, or a device with more memory",
        ),
    ],
)
def test_a_gpu_that_is_too_small_gets_the_key_that_helps_next(words: tuple[str, ...], advice: str) -> None:
    cfg = plan("model=toy", "data=toy", *words)
    assert advice in _knob(cfg, cfg.stage.phases[0], peak=2.0**31, fixed=2.0**20, memory=2.0**30, parts={})
