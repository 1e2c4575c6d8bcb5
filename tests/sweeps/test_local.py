"""A sweep without a server, with trials that train nothing: it ends, it survives being killed, and one bad trial is one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sweep_runner import STUB

from edgetam_pl.commands import main as cli
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.sweeps import local
from edgetam_pl.sweeps.jobs import Local, Submitit, SubmittedJob, run_to_end
from edgetam_pl.sweeps.outcomes import read_outcomes
from edgetam_pl.sweeps.report import write_report
from edgetam_pl.sweeps.sweep_config import read_sweep
from edgetam_pl.sweeps.trial import FAILURE

HERE = Path(__file__).parents[1] / "support"
ALLOCATIONS = ["none", "256/0", "0/256", "256/256"]


def sweep_file(path: Path, **changes: object) -> Path:
    said = {
        "name": "stubs",
        "method": "grid",
        "metric": {"name": "trial/jf", "goal": "maximize"},
        "parameters": {"latents": {"values": ALLOCATIONS}},
        "command": [
            "edgetam", "trial", "trial.format=1", "experiment=tab3a_perceiver", "scale=toy", "evaluate.dataset=toy",
            "${args_no_hyphens}",
        ],
        **changes,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({key: value for key, value in said.items() if value is not None}))
    return path


def started(out: Path) -> Counter[str]:
    return Counter((out / "started.txt").read_text().split())


def run(file: Path, out: Path, **settings: object) -> list[str]:
    runner = local.Runner(read_sweep(file), out, Local(STUB), poll=0.02, **settings)  # type: ignore[arg-type]
    return [outcome.status for outcome in runner.run()]


def test_four_allocations_run_to_the_end_and_are_reported(tmp_path: Path) -> None:
    file, out = (
        sweep_file(tmp_path / "s.yaml", parameters={"latents": {"values": ALLOCATIONS}, "seed": {"values": [1, 2]}}),
        tmp_path,
    )
    assert run(file, out, jobs=4) == ["finished"] * 8
    assert run(file, out) == ["finished"] * 8
    assert set(started(out).values()) == {1}
    page = write_report(out).read_text()
    assert "| latents=none | 2 | 115.50 | 0.71 |" in page
    assert all((out / name).stat().st_size > 5000 for name in ("scores.png", "pareto.png", "latency.png", "allocation.png"))
    assert len((out / "trials.csv").read_text().splitlines()) == 9


def test_a_runner_that_is_killed_does_not_repeat_finished_trials(tmp_path: Path) -> None:
    file = sweep_file(tmp_path / "s.yaml")
    environment = {**os.environ, "STUB_SECONDS": "0.7"}
    command = [sys.executable, str(HERE / "sweep_runner.py"), str(file), str(tmp_path), "1"]
    process = subprocess.Popen(command, env=environment)
    while len(finished := [o.name for o in read_outcomes(tmp_path) if o.status == "finished"]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.8)  # the trial that outlived its runner ends
    assert run(file, tmp_path) == ["finished"] * 4
    assert all(started(tmp_path)[name] == 1 for name in finished)
    assert len(started(tmp_path)) == 4


def test_a_runner_that_is_told_to_stop_lets_its_trials_save(tmp_path: Path) -> None:
    file = sweep_file(tmp_path / "s.yaml")
    command = [sys.executable, str(HERE / "sweep_runner.py"), str(file), str(tmp_path), "2"]
    process = subprocess.Popen(command, env={**os.environ, "STUB_SECONDS": "9"})
    while not (tmp_path / "started.txt").is_file() or len(started(tmp_path)) < 2:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=20) == TRY_AGAIN
    assert [outcome.status for outcome in read_outcomes(tmp_path)] == ["interrupted"] * 2
    assert run(file, tmp_path) == ["finished"] * 4


def test_a_failed_trial_is_reported_with_its_cause_and_the_sweep_goes_on(tmp_path: Path) -> None:
    file = sweep_file(tmp_path / "s.yaml", parameters={"seed": {"values": [1, 13, 14, 2]}})
    assert sorted(run(file, tmp_path)) == ["failed", "failed", "finished", "finished"]
    page = write_report(tmp_path).read_text()
    assert "ValueError: thirteen brings bad luck" in page
    assert "killed by SIGKILL" in page
    run(file, tmp_path)
    assert set(started(tmp_path).values()) == {1}  # not tried again unless asked for
    run(file, tmp_path, again=True)
    assert sorted(started(tmp_path).values()) == [1, 1, 2, 2]


def test_a_full_disk_fails_the_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sweep_file(tmp_path / "s.yaml", parameters={"seed": {"values": [1, 2]}})
    free = iter([10**6, 10**12])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": next(free)}))
    assert sorted(run(file, tmp_path)) == ["failed", "finished"]
    assert any("less than trial.min_free_gb" in json.loads(p.read_text())["cause"] for p in tmp_path.rglob(FAILURE))


def test_what_lags_behind_at_a_validation_is_stopped_early(tmp_path: Path) -> None:
    stop = {"type": "hyperband", "min_iter": 2, "eta": 2}
    command = ["edgetam", "trial", "trial.format=1", "evaluate.dataset=toy", "${args_no_hyphens}"]
    metric = {"name": "val/jf", "goal": "maximize"}
    sweep = read_sweep(sweep_file(tmp_path / "s.yaml", early_terminate=stop, metric=metric, command=command))
    for name, values in {"a": [10, 50], "b": [10, 40], "c": [10, 20], "d": [90]}.items():
        folder = tmp_path / "trials" / name / "validation"
        folder.mkdir(parents=True)
        (folder / "jf.jsonl").write_text("".join(json.dumps({"val/jf": value}) + "\n" for value in values) + '{"val')
    should_stop = {name: local.should_stop(sweep, tmp_path, tmp_path / "trials" / name) for name in "abcd"}
    assert should_stop == {"a": False, "b": False, "c": True, "d": False}


def test_submitit_runs_the_same_trials(tmp_path: Path) -> None:
    file = sweep_file(tmp_path / "s.yaml", parameters={"seed": {"values": [1, 13]}})
    launcher = Submitit(tmp_path / "jobs", {"timeout_min": 1}, Local(STUB), cluster="debug")
    outcomes = local.Runner(read_sweep(file), tmp_path, launcher, poll=0.02).run()
    assert {outcome.status for outcome in outcomes} == {"finished", "failed"}
    assert any("thirteen" in outcome.cause for outcome in outcomes)


PREEMPTED = """
import sys
from pathlib import Path
from edgetam_pl.sweeps.jobs import Local, run_to_end
from sweep_runner import STUB
sys.exit(run_to_end(Local(STUB), ("out=" + sys.argv[1],), Path(sys.argv[1])))
"""


def test_a_job_that_is_told_to_stop_lets_its_trial_save_and_counts_as_interrupted(tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "one"
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "STUB_SECONDS": "60", "PYTHONPATH": paths}
    job = subprocess.Popen([sys.executable, "-c", PREEMPTED, str(trial)], env=environment)
    while not (tmp_path / "started.txt").is_file():
        assert job.poll() is None
        time.sleep(0.05)
    job.terminate()
    assert job.wait(timeout=30) == TRY_AGAIN


@pytest.mark.parametrize(("whom", "status"), [("os.getppid()", TRY_AGAIN), ("os.getpid()", -signal.SIGTERM)])
def test_a_trial_that_dies_of_the_signal_was_stopped_only_where_its_job_was_told(
    tmp_path: Path, whom: str, status: int
) -> None:
    """The trial, which has no handlers (any more), sends SIGTERM to the process that passes signals on, or to itself."""
    deaf = f"import os, signal, time; os.kill({whom}, signal.SIGTERM); time.sleep(60)"
    assert run_to_end(Local((sys.executable, "-c", deaf)), (), tmp_path / "one") == status


@pytest.mark.parametrize(("state", "status"), [("PREEMPTED", TRY_AGAIN), ("TIMEOUT", TRY_AGAIN), ("NODE_FAIL", 1)])
def test_a_job_that_the_cluster_took_away_is_no_failure(state: str, status: int) -> None:
    class Job:
        def __init__(self) -> None:
            self.state = state

        def done(self) -> bool:
            return True

        def exception(self) -> Exception:
            return RuntimeError("no result")

    assert SubmittedJob(Job()).poll() == status


def test_bayes_asks_optuna_and_continues_with_what_it_knows(tmp_path: Path) -> None:
    parameters = {"latents": {"values": ALLOCATIONS}, "seed": {"min": 1, "max": 9}}
    few = sweep_file(tmp_path / "few.yaml", method="bayes", run_cap=3, parameters=parameters)
    assert run(few, tmp_path) == ["finished"] * 3
    more = sweep_file(tmp_path / "more.yaml", method="bayes", run_cap=7, parameters=parameters)
    assert run(more, tmp_path) == ["finished"] * 7
    assert len(started(tmp_path)) == 7
    assert set(started(tmp_path).values()) == {1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"latents": {"values": ["256/256", "0/0"]}}}, "leaves no memory"),
        ({"parameters": {"latents": {"values": ["256/256", "256/144"]}}}, "must be 0 or a square"),
        ({"parameters": {"latents": {"values": ["256/256", "100/0"]}}}, "6.25/0"),
        ({"parameters": {"model.compresor.kind": {"values": ["none"]}}}, "compresor"),
        (
            {"parameters": {"model.memory_blocks": {"min": 0, "max": 2}}, "method": "random", "run_cap": 2},
            "memory_blocks is 0",
        ),
        ({"command": ["edgetam", "trial", "trial.format=2", "${args_no_hyphens}"]}, "is for version 2"),
        ({"command": ["edgetam", "train", "${args_no_hyphens}"]}, "not that of a trial"),
        ({"command": ["edgetam", "trial", "trial.format=1", "${args_no_hyphens}"]}, "on what to score"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}}, "set validation.every"),
        ({"early_terminate": {"type": "envelope"}}, "hyperband"),
        ({"method": "bayes"}, "run_cap"),
        ({"parametrs": {}}, "parametrs"),
    ],
)
def test_a_bad_sweep_file_starts_nothing(
    changes: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(tmp_path / "s.yaml", **changes)
    assert cli.main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_sweep_does_not_share_a_folder(tmp_path: Path) -> None:
    sweep = read_sweep(sweep_file(tmp_path / "a.yaml"))
    other = read_sweep(sweep_file(tmp_path / "a.yaml"), ["stage.optim.lr=1"])
    with (
        local.own_folder(sweep, tmp_path),
        pytest.raises(ValueError, match="being run by another"),
        local.own_folder(sweep, tmp_path),
    ):
        pass
    with pytest.raises(ValueError, match="another command"), local.own_folder(other, tmp_path):
        pass


def test_what_trials_would_not_find_is_said_before_the_first_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "edgetam", "trial", "trial.format=1", "experiment=tab3a_perceiver", "scale=toy", "evaluate.dataset=folder",
        f"evaluate.root={tmp_path / 'no_data'}", "${args_no_hyphens}",
    ]  # fmt: skip
    file = sweep_file(tmp_path / "s.yaml", command=command, parameters={"seed": {"values": [1]}})
    here = tmp_path / "empty"
    here.mkdir()
    for words, missing in (
        ((f"weights={tmp_path / 'no.pt'}",), "no checkpoint at weights="),
        (("weights=null", "load_parts=all", f"data.sources.0.shards={tmp_path / 'no_shards'}"), "no folder of shards"),
    ):
        assert cli.main(["sweep", str(file), *words, "--out", str(tmp_path / "out")]) == 2
        assert missing in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_data_set_is_said_before_the_first_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetam_pl.training.check.check_data", lambda cfg: None)  # what the training reads is there
    plan = local.check(read_sweep(sweep_file(tmp_path / "s.yaml")))[0]
    local.check_needs([plan])
    absent = replace(plan.evaluate, dataset="folder", root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"There is no folder .*nowhere"):
        local.check_needs([plan, replace(plan, evaluate=absent)])


def test_a_sweep_file_of_the_package_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_sweep(Path("experiments/sweeps/latents.yaml")).name == "latents"
    (tmp_path / "experiments" / "sweeps").mkdir(parents=True)
    sweep_file(tmp_path / "experiments" / "sweeps" / "latents.yaml", name="mine")
    assert read_sweep(Path("experiments/sweeps/latents.yaml")).name == "mine"
