"""`edgetam evaluate`: resumes, caches, shares work, exports what scorers take, and reports in pages that need no network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from oracle import Oracle, Scene, tell_the_truth
from smallest import SMALL

from edgetam_pl.build import load_model
from edgetam_pl.commands.compare import Comparison
from edgetam_pl.commands.compare import main as compare
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import EvaluateConfig
from edgetam_pl.evaluation.datasets import DataSet, open_data
from edgetam_pl.evaluation.recipe import Recipe
from edgetam_pl.evaluation.reporting.page import write_report
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.runner import Job, evaluate, hash_of_weights, run
from edgetam_pl.evaluation.score import score_folders
from edgetam_pl.evaluation.vos import evaluate_vos
from edgetam_pl.io.label_png import read_labels

CPU = ["cpu"]


def toy_data(clips: int = 3) -> DataSet:
    return open_data("toy", f"toy:5:{clips}", toy_size=32)


def half_right(scene: Scene) -> torch.Tensor:
    return scene.truth & (scene.t % 2 == 0)


def job_of(
    data: DataSet, folder: Path, answer: Callable[[Scene], torch.Tensor] = half_right, *, protocol: str = "vos"
) -> tuple[Job, Oracle]:
    oracle = Oracle(list(data), answer)
    return Job(Recipe.of(protocol, data.rule), data, folder / "cache", lambda: oracle, weights_hash="oracle"), oracle


def test_a_crash_in_the_middle_and_a_restart_give_the_same_numbers(tmp_path: Path) -> None:
    data = toy_data()
    whole = evaluate(job_of(data, tmp_path / "whole")[0], devices=CPU)

    def crashing(scene: Scene) -> torch.Tensor:
        if scene.clip.name == "toy-6" and scene.t == 10:
            raise RuntimeError("the power is gone")
        return half_right(scene)

    broken, _ = job_of(data, tmp_path / "broken", crashing)
    with pytest.raises(RuntimeError, match="the power is gone"):
        evaluate(broken, devices=CPU)
    again, oracle = job_of(data, tmp_path / "broken")
    resumed = evaluate(again, devices=CPU)
    assert resumed.rows == whole.rows
    assert [item.picture for item in resumed.sequences] == [item.picture for item in whole.sequences]
    assert {call.clip for call in oracle.calls} == {"toy-6", "toy-7"}  # the first sequence was finished before


def test_nothing_is_evaluated_twice_and_nothing_old_is_taken_for_new(tmp_path: Path) -> None:
    data = toy_data(1)
    first, _ = job_of(data, tmp_path)
    expected = evaluate(first, devices=CPU)
    second, oracle = job_of(data, tmp_path, tell_the_truth)
    assert evaluate(second, devices=CPU).rows == expected.rows
    assert not oracle.calls
    for changed in (
        replace(second, weights_hash="other"),
        replace(second, model={"image_size": 64}),
        replace(second, bf16=True),
        replace(second, recipe=Recipe.of("first_frame", data.rule, prompt="box")),
        replace(second, data=open_data("toy", "toy:9:1", toy_size=32)),
    ):
        key, other = (job.key(next(iter(job.data))) for job in (second, changed))
        assert key != other
    assert evaluate(replace(second, fresh=True), devices=CPU).jf == 100.0


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = job_of(toy_data(1), tmp_path)
    monkeypatch.setattr(os, "replace", lambda draft, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        evaluate(job, devices=CPU)
    assert not list((tmp_path / "cache").rglob("*.json"))
    monkeypatch.undo()
    assert evaluate(job, devices=CPU).rows


def test_ranks_share_the_sequences_and_the_first_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_data()
    whole = evaluate(job_of(data, tmp_path / "whole")[0], devices=CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    job, oracle = job_of(data, tmp_path / "shared")
    assert evaluate(job, devices=CPU) is None
    assert {call.clip for call in oracle.calls} == {"toy-6"}
    monkeypatch.setenv("RANK", "0")
    job, oracle = job_of(data, tmp_path / "shared")
    assert evaluate(job, devices=CPU).rows == whole.rows
    assert {call.clip for call in oracle.calls} == {"toy-5", "toy-7"}


def test_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    model = composed(EvaluateConfig, command="evaluate", overrides=["model=toy", *SMALL])[0].model
    data = open_data("toy", "toy:5:2", toy_size=64)
    job = Job(Recipe.of("vos", data.rule), data, tmp_path / "one", partial(load_model, model, "random", seed=0), threads=1)
    one = evaluate(job, devices=CPU)
    two = evaluate(replace(job, cache=tmp_path / "two"), devices=CPU, workers=2)
    assert two.rows == one.rows


def test_exported_predictions_score_what_the_report_says(tmp_path: Path) -> None:
    data = toy_data(2)

    def shifted(scene: Scene) -> torch.Tensor:
        return torch.roll(scene.truth, 2, dims=1)

    job, _ = job_of(data, tmp_path, shifted)
    report = evaluate(replace(job, export=tmp_path / "predictions"), devices=CPU)
    write_truth(data, tmp_path / "truth")
    scored = score_folders(tmp_path / "predictions", tmp_path / "truth", rule="davis17").report
    assert (scored.j, scored.f) == pytest.approx((report.j, report.f))
    assert not list(tmp_path.rglob("*.partial*"))


def test_predictions_of_objects_that_may_overlap_have_a_folder_each(tmp_path: Path) -> None:
    data = toy_data(1)
    sav = replace(data, rule=replace(data.rule, per_object=True, non_overlap=False))
    job, _ = job_of(sav, tmp_path, lambda scene: torch.ones_like(scene.truth))
    evaluate(replace(job, export=tmp_path / "predictions"), devices=CPU)
    files = sorted(
        path.relative_to(tmp_path / "predictions").as_posix() for path in (tmp_path / "predictions").rglob("*.png")
    )
    assert len(files) == 3 * 24
    assert files[0] == "toy-5/1/00000.png"
    assert read_labels(tmp_path / "predictions" / files[30]).min() == 1


def test_the_lowest_label_wins_where_one_png_holds_overlapping_masks(tmp_path: Path) -> None:
    data = toy_data(1)
    job, _ = job_of(data, tmp_path, lambda scene: torch.ones_like(scene.truth))
    recipe = replace(job.recipe, non_overlap=False)
    evaluate(replace(job, recipe=recipe, export=tmp_path / "predictions"), devices=CPU)
    assert set(np.unique(read_labels(tmp_path / "predictions" / "toy-5" / "00003.png"))) == {1}


def test_predictions_are_written_again_when_they_belong_to_other_weights(tmp_path: Path) -> None:
    data = toy_data(1)
    job, _ = job_of(data, tmp_path)
    job = replace(job, export=tmp_path / "predictions")
    evaluate(job, devices=CPU)
    before = (tmp_path / "predictions" / "toy-5" / "00003.png").read_bytes()
    other, _ = job_of(data, tmp_path, tell_the_truth)
    evaluate(replace(other, weights_hash="other", export=tmp_path / "predictions"), devices=CPU)
    assert (tmp_path / "predictions" / "toy-5" / "00003.png").read_bytes() != before


def test_hidden_truth_gives_predictions_and_no_score(tmp_path: Path) -> None:
    data = toy_data(1)
    write_truth(data, tmp_path / "set" / "Annotations", frames=1)
    clip = next(iter(data))
    for t, stem in enumerate(clip.stems):
        path = tmp_path / "set" / "JPEGImages" / clip.name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(clip.frames.read(t), cv2.COLOR_RGB2BGR))
    hidden = open_data("mose", tmp_path / "set")
    job, _ = job_of(hidden, tmp_path, lambda scene: torch.ones_like(scene.truth))
    with pytest.raises(ValueError, match=r"truth of its frames is hidden.*export=true"):
        evaluate(job, devices=CPU)
    report = evaluate(replace(job, export=tmp_path / "predictions"), devices=CPU)
    assert report.rows == ()
    assert len(list((tmp_path / "predictions" / clip.name).glob("*.png"))) == clip.num_frames


def test_weights_have_a_hash_of_their_values() -> None:
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert hash_of_weights(one) != hash_of_weights(two)
    two.load_state_dict(one.state_dict())
    assert hash_of_weights(one) == hash_of_weights(two)


# ---------------------------------------------------------------------- the command


PROTOCOLS = ("vos", "first_frame", "pvs_online", "pvs_offline", "sa", "repeat")


def config(tmp_path: Path, *words: str) -> EvaluateConfig:
    always = ["model=toy", "weights=random", "threads=1", f"out={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}"]
    return composed(EvaluateConfig, command="evaluate", overrides=[*always, *words])[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_runs_end_to_end_on_real_data(shared: Path, tmp_path: Path, protocol: str) -> None:
    kind, name = ("images", "coco_dev") if protocol == "sa" else ("davis16", "davis16_dev")
    words = [f"protocol={protocol}", f"dataset={kind}", f"root={shared / 'data' / name}", "limit=1", "rounds=2"]
    if protocol == "first_frame":
        words.append("prompt=3-click")
    report = run(config(tmp_path, *words))
    said = report.conditions
    assert said["protocol"] == protocol
    for name in ("resolution", "prompts", "frame_rule", "list_hash", "data_hash", "weights_hash", "num_objects", "date"):
        assert said[name] not in (None, ""), name
    assert 0 <= report.score <= 100
    assert report.rounds == {"pvs_online": (1, 2), "pvs_offline": (1, 2), "sa": (1, 2, 3, 4, 5)}.get(protocol, (0,))
    assert Report.read(tmp_path / "out").rows == report.rows
    assert_needs_no_network((tmp_path / "out" / "report.html").read_text())


def test_several_real_objects_run_end_to_end(shared: Path, tmp_path: Path) -> None:
    words = ["dataset=davis17", f"root={shared / 'data' / 'davis17_multi_dev'}", "export=true"]
    report = run(config(tmp_path, *words))
    assert [row.object for row in report.rows] == list("1234567")
    scored = score_folders(tmp_path / "out" / "predictions", shared / "data" / "davis17_multi_dev").report
    assert scored.jf == pytest.approx(report.jf)


def test_reports_are_compared_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = toy_data(2)
    for name, answer in (("a", half_right), ("b", tell_the_truth)):
        job, _ = job_of(data, tmp_path / name, answer)
        write_report(evaluate(job, devices=CPU, title=name), tmp_path / name)
    assert compare([str(tmp_path / "a"), str(tmp_path / "b" / "report.json"), "--out", str(tmp_path / "c")]) == 0
    assert "B is better on 6 objects, A on 0, neither on 0." in capsys.readouterr().out
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert found["b"]["score"] == 100.0
    assert found["gain"] == pytest.approx(100 - found["a"]["score"])
    gains = [item["gain"] for item in found["objects"]]
    assert gains == sorted(gains)
    assert_needs_no_network((tmp_path / "c" / "comparison.html").read_text())


def test_reports_about_different_things_are_not_compared(tmp_path: Path) -> None:
    one, two = (evaluate(job_of(toy_data(n), tmp_path)[0], devices=CPU) for n in (1, 2))
    with pytest.raises(ValueError, match=r"differ in more than the model .*list_hash.*--anyway"):
        Comparison.of(one, two)
    assert len(Comparison.of(one, two, anyway=True).pairs) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights="], "weights is empty; give a checkpoint"),
        (["weights=nowhere.pt"], "nowhere.pt"),
        (["protocol=vot"], "protocol is vot; use one of vos, first_frame"),
        (["prompt=box"], "prompt=box goes with protocol=first_frame"),
        (["protocol=first_frame", "prompt=scribble"], "no prompt 'scribble'"),
        (["dataset=davis18"], "no data set 'davis18'"),
        (["precision=fp8"], "use one of auto, fp32, bf16"),
        (["device=tpu"], "use auto, cpu, mps, cuda"),
        (["protocol=pvs_online", "export=true"], "Use vos or first_frame"),
        (["protocol=pvs_online", "rounds=0"], "rounds and clicks are at least 1"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(config(tmp_path, "dataset=toy", *words))
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no report at"):
        Report.read(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="Not a report of version 1"):
        Report.read(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Report.read(tmp_path)


# ---------------------------------------------------------------------- the report


def test_the_page_lists_the_worst_first_and_can_be_sorted(tmp_path: Path) -> None:
    data = toy_data(1)
    clips = list(data)
    oracle = Oracle(clips, lambda scene: scene.truth & (scene.t % (scene.object + 2) == 0))
    report = evaluate_vos(oracle, clips, title='<script>alert("x")</script>')
    page = write_report(report, tmp_path).read_text()
    assert [row.object for row in report.worst_first()] == ["3", "2", "1"]
    assert page.index(">3</td>") < page.index(">2</td>") < page.index(">1</td>")
    assert "<script>alert" not in page
    assert "://" not in page  # nothing comes from another place
    assert "data:image/svg+xml;base64," in page  # J over time
    assert "data:image/jpeg;base64," in page
    assert "aria-sort" in page
    assert (tmp_path / "pictures" / "toy-5.jpg").is_file()


def test_the_table_ends_with_the_mean() -> None:
    clips = list(toy_data(1))
    lines = evaluate_vos(Oracle(clips), clips).table().splitlines()
    assert lines[0].split() == ["sequence", "object", "J&F", "J", "F", "frames"]
    assert lines[-1].split() == ["mean", "3", "rows", "100.0", "100.0", "100.0"]


def test_seen_and_unseen_objects_are_averaged_apart() -> None:
    clips = list(toy_data(1))
    report = evaluate_vos(Oracle(clips, lambda scene: scene.truth & (scene.object != 1)), clips)
    groups = {"1": "seen", "2": "unseen", "3": "seen"}
    report = replace(report, rows=tuple(replace(row, group=groups[row.object]) for row in report.rows))
    row = next(row for row in report.rows if row.object == "2")
    assert report.g == pytest.approx((100 + 100 + row.mean_j + row.mean_f) / 4)
    assert report.headline()["G"] == report.score == report.g


def write_truth(data: DataSet, folder: Path, *, frames: int | None = None) -> None:
    from edgetam_pl.io.label_png import write_labels

    for clip in data:
        for t in range(clip.num_frames if frames is None else frames):
            labels = np.zeros(clip.size, dtype=np.uint8)
            for item, mask in zip(clip.objects, clip.truths.read(t)):
                labels[mask] = int(item.name)
            write_labels(folder / clip.name / f"{clip.stems[t]}.png", labels)


def assert_needs_no_network(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]{1,60})', page)
    assert addresses
    assert all(address.startswith(("data:", "#", "pictures/")) for address in addresses), addresses
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
