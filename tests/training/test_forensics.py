"""Forensics: ranks agree, the culprit is named, and a case can be seen again."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from edgetam_pl.losses.objective import TERMS, Losses
from edgetam_pl.tracking.prompters import prompts_of
from edgetam_pl.training.forensics import (
    Case,
    Finding,
    diagnose,
    first_nonfinite_module,
    gradient_is_nonfinite,
    gradient_shares,
    load_case,
    loss_is_nonfinite,
    loss_shares,
    on_any_rank,
    save_case,
)
from edgetam_pl.training.step import mean_over_ranks
from edgetam_pl.types import Decoded, FrameOutput, Prompts, VideoBatch

NAN = float("nan")


def _losses(**terms: float) -> Losses:
    return Losses({term.name: torch.tensor(terms.get(term.name, 1.0)) for term in TERMS})


def test_one_term_that_is_no_number_breaks_the_step() -> None:
    assert not loss_is_nonfinite(_losses())
    assert loss_is_nonfinite(_losses(dice=NAN))
    assert loss_is_nonfinite(_losses(mem=float("inf")))


def test_one_gradient_that_is_no_number_breaks_the_step() -> None:
    model = nn.Linear(2, 2)
    assert not gradient_is_nonfinite(model.parameters()), "no gradient at all is not a broken one"
    model(torch.ones(1, 2)).sum().backward()
    assert not gradient_is_nonfinite(model.parameters())
    assert model.bias.grad is not None
    model.bias.grad[1] = NAN
    assert gradient_is_nonfinite(model.parameters())


def test_the_diagnosis_names_terms_gradients_and_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    assert model[1].bias.grad is not None
    model[1].bias.grad.fill_(NAN)
    with torch.no_grad():
        model[0].weight[0, 0] = NAN
    found = diagnose(model, _losses(focal=NAN))
    assert found == Finding(("focal",), ("1.bias",), ("0.weight",))
    assert "loss terms: focal; gradients: 1.bias; weights: 0.weight" in str(found)
    assert str(Finding((), (), ())) == "nothing on this rank"


def test_the_first_nonfinite_module_is_the_innermost_that_broke() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), Logarithm()), nn.Linear(2, 2))
    assert first_nonfinite_module(model, lambda: model(torch.ones(1, 2))) is None
    assert first_nonfinite_module(model, lambda: model(-torch.ones(1, 2))) == "1.1"
    assert not any(module._forward_hooks for module in model.modules()), "hooks are taken off again"


def _two_ranks(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    fine = on_any_rank(loss_is_nonfinite(_losses()))
    bad = on_any_rank(loss_is_nonfinite(_losses(dice=NAN if rank == 1 else 1.0)))
    objects = mean_over_ranks((1, 4)[rank], device=torch.device("cpu"))
    (Path(folder) / f"rank{rank}").write_text(f"{fine} {bad} {float(objects)}")
    dist.destroy_process_group()


def test_f13_a_nan_on_rank_1_is_known_on_all_ranks_and_losses_are_divided_by_the_same_count(tmp_path: Path) -> None:
    """A rank that returns early leaves the others waiting. 1 object here and 4 there: both divide by 2.5."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_two_ranks, args=(port, str(tmp_path)), nprocs=2, start_method="fork")
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["False True 2.5"] * 2
    assert mean_over_ranks(3, device=torch.device("cpu")) == 3


def _case() -> Case:
    batch = VideoBatch(
        frames=torch.randint(0, 255, (1, 2, 3, 8, 8), dtype=torch.uint8),
        masks=torch.rand(2, 1, 8, 8) > 0.5,
        video_of=torch.zeros(1, dtype=torch.int64),
        keys=("sav_000001",),
        source="sav",
    )
    click = Prompts(points=torch.ones(1, 1, 2), labels=torch.ones(1, 1, dtype=torch.int64))
    more = Prompts(
        points=torch.ones(1, 2, 2),
        labels=torch.zeros(1, 2, dtype=torch.int64),
        previous=torch.zeros(1, 1, 2, 2).requires_grad_(),
    )
    answers = [Decoded(*(torch.zeros(1) for _ in range(4)), prompts=said) for said in (click, more, None)]
    outputs = (
        FrameOutput((answers[0], answers[1]), torch.zeros(1), recalled=False),
        FrameOutput((answers[2],), torch.zeros(1), recalled=True),
    )
    finding = Finding(("dice",), (), ())
    return Case(
        batch, prompts_of(outputs), (0, 1), step=12, rank=1, seeds={"dropout": 7}, finding=finding, module="compressor"
    )


def test_a_saved_case_comes_back_with_its_batch_and_its_words(tmp_path: Path) -> None:
    case = _case()
    path = save_case(tmp_path / "cases", case)
    again = load_case(path)
    assert path.name == "step000012-rank1.pt"
    assert torch.equal(again.batch.frames, case.batch.frames)
    assert torch.equal(again.batch.masks, case.batch.masks)
    assert (again.batch.keys, again.batch.source) == (("sav_000001",), "sav")
    assert (again.finding, again.module, again.seeds, again.order) == (case.finding, "compressor", {"dropout": 7}, (0, 1))
    assert not list(path.parent.glob("*.partial"))


def test_a_replayed_case_says_the_same_and_hands_back_the_listeners_own_logits(tmp_path: Path) -> None:
    again = load_case(save_case(tmp_path, _case()))
    ask = again.prompter().at(0)
    first = ask(None)
    assert first is not None
    assert first.previous is None
    own = Decoded(torch.full((1, 1, 2, 2), 5.0), torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 4), first)
    second = ask(own)
    assert second is not None
    assert second.num_points == 2
    assert second.previous is not None
    assert torch.equal(second.previous, own.best)
    assert ask(own) is None
    assert again.prompter().at(1)(None) is None


def test_people_can_read_the_case_without_python(tmp_path: Path) -> None:
    summary = json.loads(save_case(tmp_path, _case()).with_suffix(".json").read_text())
    assert summary["keys"] == ["sav_000001"]
    assert summary["finding"]["terms"] == ["dice"]
    assert summary["prompts"][0][0]["points"] == [[[1.0, 1.0]]]


def test_a_file_that_is_no_case_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="not a case of version 1"):
        load_case(tmp_path / "weights.pt")


def test_loss_shares_add_up_to_one() -> None:
    shares = loss_shares(_losses(focal=5.0))
    assert sum(shares.values()).item() == pytest.approx(1.0)  # type: ignore[union-attr]
    assert shares["focal"].item() == pytest.approx(0.5)


def test_gradient_shares_say_which_term_pulls_and_leave_the_graph_usable() -> None:
    x = torch.ones(3, requires_grad=True)
    zero = torch.zeros(())
    losses = Losses(focal=3 * x.sum(), dice=x.sum(), iou=zero, presence=zero, img=zero, mem=zero)
    shares = gradient_shares(losses, [x])
    assert [shares[name].item() for name in losses] == pytest.approx([0.75, 0.25, 0, 0, 0, 0])
    losses.total.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [4.0] * 3
