"""Table 5 to the letter, and what is refused before a weight is allocated: keys and values are named."""

from __future__ import annotations

import pytest
import torch

from edgetam_pl import build
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training import fit
from edgetam_pl.training.check import accumulation, check, ranks, with_accumulation


def compose(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=list(words))[0]


def test_stage_1_is_table_5_a() -> None:
    stage = compose("stage=image", "data=sa1b").stage
    (phase,) = stage.phases
    assert (phase.frames, phase.steps, phase.total_batch, phase.distil) == (1, 175_000, 128, True)
    weights, optim = stage.weights, stage.optim
    assert (weights.focal, weights.dice, weights.iou, weights.img, weights.mem) == (20, 1, 1, 1, 0)
    assert (optim.schedule, optim.lr, optim.encoder_lr, optim.timescale) == ("rsqrt", 4e-4, None, 1000)
    assert (optim.warmup, optim.cooldown, optim.weight_decay, optim.clip_norm) == (1000, 5000, 0.1, 0.1)
    assert (tuple(optim.betas), optim.layer_decay) == ((0.9, 0.999), 1.0)
    assert (stage.max_objects, stage.prompts.corrections, stage.ema) == (64, 7, 0.0)
    assert compose("stage=image").model.drop_path == 0


def test_stage_2_is_table_5_b() -> None:
    cfg = compose("stage=video", "data=mix_video")
    stage = cfg.stage
    (phase,) = stage.phases
    assert (phase.frames, phase.steps, phase.total_batch) == (8, 130_000, 256)
    weights, optim, prompts = stage.weights, stage.optim, stage.prompts
    assert tuple(vars(weights).values()) == (20, 1, 1, 1, 1, 1)
    assert (optim.schedule, optim.lr, optim.encoder_lr, optim.warmup, optim.end_factor) == (
        "cosine",
        3e-4,
        6e-5,
        15_000,
        0.0,
    )
    assert (optim.weight_decay, optim.clip_norm, tuple(optim.betas), optim.layer_decay) == (0.1, 0.1, (0.9, 0.999), 1.0)
    assert (stage.max_objects, stage.candidates, stage.mask_size, stage.distance) == (3, "best", 0, "mse")
    assert (prompts.point_prob, prompts.box_prob, prompts.corrections, prompts.ground_truth_prob) == (0.5, 0.5, 7, 0.1)
    assert (prompts.max_prompted_frames, prompts.max_corrected_frames) == (2, 2)
    augment = cfg.data.augment
    assert (augment.flip, augment.degrees, augment.shear, augment.grey, augment.reverse) == (0.5, 25, 20, 0.05, 0.5)
    assert (augment.brightness, augment.frame_brightness) == (0.1, 0.1)
    assert [source.max_objects for source in cfg.data.sources if source.kind == "image"] == [32]


def test_longer_clips_are_frozen_untaught_and_a_third_as_long() -> None:
    stage = compose("stage=progressive").stage
    assert [phase.frames for phase in stage.phases] == [8, 16, 32]
    assert [(p.freeze_encoder, p.distil, p.total_batch) for p in stage.phases] == [
        (False, True, 256), (True, False, 256), (True, False, 256),
    ]  # fmt: skip
    assert all(phase.steps == pytest.approx(130_000 / 3, rel=0.01) for phase in stage.phases[1:])
    assert stage.phases[1:] == compose("stage=finetune").stage.phases
    assert [phase.warmup for phase in stage.phases] == [None, 1000, 1000], "a phase may warm up in its own time"


def test_the_batch_of_a_step_is_the_recipes_on_any_number_of_ranks() -> None:
    for words, expected in (
        (("trainer=gpu8",), 32),
        (("trainer=gpu8", "trainer.num_nodes=32"), 1),
        (("trainer.devices=2", "stage.phases=[{frames:8,steps:20000,batch:4,total_batch:256}]"), 32),
        (("stage.phases=[{frames:8,steps:20000,batch:2,accumulate:3}]",), 3),
    ):
        cfg = compose("stage=video", *words)
        (phase,) = with_accumulation(cfg).stage.phases
        assert phase.accumulate == accumulation(cfg, 0) == expected
        if phase.total_batch:
            assert phase.batch * ranks(cfg) * phase.accumulate == phase.total_batch


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trainer.devices=3"], r"total_batch is 256, which batch=1 x 3 ranks .* = 3 does not divide"),
        (["stage.phases=[{frames:8,steps:20000,batch:24,total_batch:256}]", "trainer.devices=8"], "batch=24 x 8 ranks"),
        (["stage.phases=[{frames:8,steps:20000,total_batch:-1}]"], "total_batch is -1"),
        (["stage.phases=[{frames:8,steps:14999}]"], r"phases\[0\] \(steps=14999\).*warmup=15000"),
        (["stage=image", "stage.phases=[{frames:1,steps:5999}]"], "warmup=1000 and cooldown=5000"),
        (["stage.optim.cooldown=10"], "cooldown=10 with schedule=cosine"),
        (["stage.optim.schedule=linear"], "linear"),
        (["stage.optim.end_factor=2"], "end_factor"),
        (["stage.phases=[{frames:0,steps:20000}]"], r"phases\[0\].frames is 0"),
        (["stage.memory_frames=some"], "stage.memory_frames is some; use one of recalled, all"),
        (["stage.teacher_memory=both"], "stage.teacher_memory"),
        (["stage.teacher_logits=both"], "stage.teacher_logits"),
        (["stage.distance=l1"], "mse, cosine"),
        (["stage.ema=1"], "stage.ema is 1.0"),
        (["recompute=[encode,loss]"], "recompute names loss"),
        (["object_chunk=-1"], "object_chunk is -1"),
        (["launcher.kind=ssh"], "launcher.kind"),
        (["stage.resample=nearest"], "stage.resample"),
        (["stage.projection=conv"], "stage.projection"),
        (["checkpoint_every=0"], "checkpoint_every is 0; it must be at least 1"),
        (["keep_checkpoints=0"], "keep_checkpoints is 0"),
        (["validation.patience=-1"], "validation.patience is -1; it must be at least 0"),
        (["validation.every=-2"], "validation.every is -2"),
        (["logger.log_every=0"], "logger.log_every is 0"),
        (["stage.max_objects=0"], "stage.max_objects is 0"),
        (["seed=-1"], "seed is -1"),
        (["out="], "out is empty"),
        (["teacher_cache=somewhere"], "teacher_cache=somewhere"),
        (["teacher_cache_only=true"], "no teacher_cache names its answers"),
        (["model@teacher=edgetam", "teacher_weights=t.pt", "teacher_cache=c"], "correction clicks fall on the student's"),
        (
            ["model@teacher=edgetam", "teacher_weights=t.pt", "teacher_cache=c", "stage.teacher_memory=student"],
            "would depend on the student",
        ),
        (["model@second_teacher=edgetam", "second_teacher_weights=t.pt"], "a second_teacher and no teacher"),
        (["model@teacher=sam3_tracker", "teacher_weights=t.pt", "teacher.image_size=1000"], "image_size is 1000"),
        (["model.dim=100"], "dim is 100"),
        (["model@teacher=edgetam", "teacher_weights=t.pt", "teacher.dim=128"], "128 channels"),
        (["model@teacher=edgetam", "teacher_weights=t.pt", "teacher.image_size=500"], "image_size is 500"),
    ],
)
def test_the_impossible_is_refused_before_anything_is_allocated(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "build_module", lambda cfg: pytest.fail("something was built"))
    monkeypatch.setattr(build, "build_model", lambda cfg: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=named):
        fit.run(compose(*words))


def test_ranks_that_were_started_must_be_the_ones_that_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    check(compose("trainer=gpu8", "trainer.num_nodes=2"))
    with pytest.raises(ValueError, match=r"16 processes were started .* is 8"):
        check(compose("trainer=gpu8"))


def test_all_devices_of_a_machine_without_any_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks(compose("trainer.devices=auto", "trainer.accelerator=gpu")) == 1
