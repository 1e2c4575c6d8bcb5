"""Trainings, shards and sweeps under a real SLURM: started, requeued, pre-empted, out of time, cancelled.

`make test-slurm` runs these; they need root and Debian's slurm-wlm and munge (tests/cluster/slurm.py), and take minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm
import yaml
from smallest import SMALL
from sweep_runner import STUB

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run as build
from edgetam_pl.io.resources import CONFIGS, shipped
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.training.curves import STEP, read_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("EDGETAM_TEST_SLURM" not in os.environ, reason="a SLURM is started by: make test-slurm"),
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "SLURM is here"),
]

PATIENCE = 600.0
"""Seconds after which something hangs. A machine may be busy."""
STEPS = 16


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SLURM, and a command `edgetam` that its jobs find."""
    folder = tmp_path_factory.mktemp("slurm")
    program = folder / "edgetam"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgetam_pl.commands.main "$@"\n')
    program.chmod(0o755)
    with slurm.running(folder / "run") as environment:
        environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
        yield environment | {"WANDB_SILENT": "true", "EDGETAM": str(program)}


@pytest.fixture(autouse=True)
def _nothing_is_left(here: dict[str, str]) -> Iterator[None]:
    yield
    ask(here, "scancel", "--user=root")
    until("the queue is empty", lambda: not ask(here, "squeue", "-h"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of toys on processors, checkpoints every five steps."""
    shards = tmp_path_factory.mktemp("shards")
    build(ShardsConfig(source="toy", out=str(shards), clips=16, frames=1, size=64, objects=3, group=4, processes=1))
    return [
        "model=toy", "stage=toy_image", *SMALL, "data=toy_images", f"data.sources.0.shards={shards}", "data.workers=0",
        "stage.optim.warmup=0", "stage.optim.cooldown=0", f"stage.phases=[{{frames: 1, steps: {STEPS}, batch: 1}}]",
        "stage.max_objects=2",
        "logger=none", "logger.log_every=1", "logger.panels_every=0", "checkpoint_every=5", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "trainer.strategy=ddp_find_unused_parameters_true",
        "trainer.enable_progress_bar=false",
    ]  # fmt: skip


def ask(here: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=here, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def job_of(here: dict[str, str], job: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in ask(here, "scontrol", "show", "job", "-o", job).split())
    return {key: value for key, _, value in pairs}


def ended(here: dict[str, str], job: str) -> str:
    """The last state of a job, awaited."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")
    until(f"job {job} ends", lambda: job_of(here, job).get("JobState") in over)
    return job_of(here, job)["JobState"]


def submit(here: dict[str, str], words: list[str], out: Path, *options: str) -> str:
    """configs/launcher/slurm.sh with two tasks."""
    out.mkdir(parents=True, exist_ok=True)
    size = ["--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", f"--output={out}/job.log", *options]
    script = str(shipped(CONFIGS) / "launcher" / "slurm.sh")
    done = subprocess.run(
        ["sbatch", "--parsable", *size, script, *words, f"out={out}"], env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def steps(out: Path) -> list[int]:
    return [line[STEP] for line in read_lines(out / "curves.jsonl")]


def begun(here: dict[str, str], job: str, out: Path, least: int) -> None:
    """Wait until so many steps are done. A job that ends before has its say."""

    def there() -> bool:
        over = job_of(here, job).get("JobState") in ("FAILED", "CANCELLED")
        assert not over, "".join(path.read_text()[-3000:] for path in out.rglob("*.log"))
        return len(steps(out)) >= least

    until(f"step {least}; see {out}", there)


def finished(here: dict[str, str], job: str, out: Path) -> None:
    """It ended well: all steps, each once, in order."""
    assert ended(here, job) == "COMPLETED", (out / "job.log").read_text()[-3000:]
    assert (out / "weights.pt").is_file()
    assert steps(out) == list(range(1, STEPS + 1))


def test_two_tasks_train_and_a_requeued_job_goes_on_where_it_was(
    here: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = submit(here, words, out)
    begun(here, job, out, 3)
    ask(here, "scontrol", "requeue", job)
    until("the job is restarted", lambda: job_of(here, job).get("Restarts") == "1")
    finished(here, job, out)


def test_a_job_that_gives_way_to_another_partition_goes_on_afterwards(
    here: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = submit(here, words, out, "--partition=low")
    begun(here, job, out, 3)
    other = ask(here, "sbatch", "--parsable", "--partition=high", "--ntasks=8", "--output=/dev/null", "--wrap=sleep 2")
    assert ended(here, other) == "COMPLETED"
    finished(here, job, out)
    assert int(job_of(here, job)["Restarts"]) >= 1


def test_a_job_whose_time_is_over_saves_and_goes_back_and_a_cancelled_one_stays_away(
    here: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    """USR1 comes within the first minute before the end that SLURM's grid allows; the run is longer than that."""
    out = tmp_path / "run"
    endless = [word.replace(f"steps: {STEPS}", "steps: 100000") for word in words]
    job = submit(here, endless, out, "--time=3", "--signal=USR1@100")
    until("the job is restarted", lambda: job_of(here, job).get("Restarts") == "1")
    before = len(steps(out))
    assert before > 0
    assert list((out / "checkpoints").glob("*-stopped.ckpt"))
    begun(here, job, out, before + 2)
    assert steps(out)[: before + 2] == list(range(1, before + 3))
    ask(here, "scancel", job)
    assert ended(here, job) == "CANCELLED"
    until("it has let go", lambda: not ask(here, "squeue", "-h"))
    assert job_of(here, job)["Restarts"] == "1"


def test_a_training_that_hands_itself_in_through_submitit_is_put_back_when_it_is_told_to_stop(
    here: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    out = tmp_path / "run"
    own = ["launcher=slurm", "launcher.tasks_per_node=2", "launcher.arguments.gpus_per_node=2"]
    own += ["launcher.arguments.cpus_per_task=1"]
    done = subprocess.run(
        [here["EDGETAM"], "train", *words, *own, f"out={out}"], env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.split("Job ")[1].split()[0]
    begun(here, job, out, 3)
    ask(here, "scancel", "--signal=USR2", job)
    until("the job is restarted", lambda: job_of(here, job).get("Restarts") == "1")
    assert ended(here, job) == "COMPLETED"
    assert steps(out) == list(range(1, STEPS + 1))


def test_shards_are_built_by_an_array_of_jobs(here: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    made = ["shards", "source=toy", "clips=12", "frames=4", "size=32", "group=2"]
    array = ["engine=slurm", "jobs=3", "+slurm.timeout_min=10", "+slurm.cpus_per_task=1"]
    for out, how in (("one", ["processes=1"]), ("many", array)):
        command = [here["EDGETAM"], *made, *how, f"out={tmp_path / out}"]
        done = subprocess.run(command, env=here, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-2000:]
    for path in [*(tmp_path / "one").glob("shard-*"), tmp_path / "one" / "index.bin"]:
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_a_trial_that_is_preempted_is_no_failure_and_goes_on(here: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "out").mkdir()
    sweep = {
        "name": "one", "method": "grid", "metric": {"name": "trial/jf", "goal": "maximize"},
        "parameters": {"latents": {"values": ["256/256"]}},
        "command": ["edgetam", "trial", "trial.format=1", "experiment=tab3a_perceiver", "scale=toy",
                    "evaluate.dataset=toy", "${args_no_hyphens}"],
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    settings = {"slurm_partition": "low", "timeout_min": 60, "cpus_per_task": 1}
    program = f"""if True:
        from pathlib import Path
        from edgetam_pl.sweeps.jobs import Local, Submitit
        from edgetam_pl.sweeps.local import Runner
        from edgetam_pl.sweeps.sweep_config import read_sweep
        here = Path({str(tmp_path)!r})
        jobs = Submitit(here / "jobs", {settings!r}, Local({STUB!r}))
        runner = Runner(read_sweep(here / "sweep.yaml"), here / "out", jobs, poll=0.5)
        print([outcome.status for outcome in runner.run()])
    """
    command = [sys.executable, "-c", program]
    slow = here | {"STUB_SECONDS": "600"}
    runner = subprocess.Popen(command, env=slow, stdout=subprocess.PIPE, text=True)
    try:
        until("the trial begins", (tmp_path / "out" / "started.txt").is_file)
        other = ask(here, "sbatch", "--parsable", "--partition=high", "--ntasks=8", "--output=/dev/null", "--wrap=sleep 2")
        assert ended(here, other) == "COMPLETED"
        printed, _ = runner.communicate(timeout=PATIENCE)
    finally:
        runner.kill()
    assert "['interrupted']" in printed  # no failure: the same command goes on with it
    again = subprocess.run(command, env=here, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "['finished']" in again.stdout, again.stderr[-2000:]


@pytest.mark.parametrize("who", ["the trial is told to stop", "sbatch is killed"])
def test_the_job_of_a_trial_ends_with_what_waits_for_it(here: dict[str, str], tmp_path: Path, who: str) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nsleep 600\n")
    command = ["sbatch", "--parsable", "--wait", f"--output={tmp_path}/job.log", str(script)]
    program = f"import os; from edgetam_pl.sweeps.trial import submitted; print(submitted({command!r}, dict(os.environ)))"
    trial = subprocess.Popen([sys.executable, "-c", program], env=here, stdout=subprocess.PIPE, text=True)
    until("the job runs", lambda: "RUNNING" in ask(here, "squeue", "-h", "-o", "%T"))
    job = ask(here, "squeue", "-h", "-o", "%i")
    if who == "sbatch is killed":
        waits = subprocess.run(["pgrep", "-P", str(trial.pid), "sbatch"], capture_output=True, text=True, check=True).stdout
        os.kill(int(waits), signal.SIGKILL)
    else:
        trial.terminate()
    assert ended(here, job) == "CANCELLED"
    printed, _ = trial.communicate(timeout=60)
    assert printed.strip() == ("75" if who == "the trial is told to stop" else "-9")


def test_a_trial_that_trains_in_a_job_of_its_own_is_stopped_with_it_and_goes_on(
    here: dict[str, str], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """trial.start=slurm, whole, on all processors of the node: told to stop, it cancels its job, which saves; given again,
    it ends with a record."""
    shards, out = tmp_path_factory.mktemp("trial"), tmp_path / "run"
    for kind, frames in (("video", 4), ("image", 1)):
        place = str(shards / kind)
        build(ShardsConfig(source="toy", out=place, clips=4, frames=frames, size=64, objects=3, group=4, processes=1))
    words = [
        "trial.format=1", "experiment=tab3b_global", "scale=toy", "latents=64/64", *SMALL, "weights=null",
        "stage.mask_size=32", "trial.start=slurm", "trial.gpus=1", "trial.latency=false", "data.workers=0",
        "stage.optim.warmup=0", "stage.phases=[{frames: 2, steps: 30, batch: 1}]",
        "logger=none", "logger.log_every=1", "logger.panels_every=0",
        "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.strategy=ddp_find_unused_parameters_true",
        "trainer.enable_progress_bar=false", "evaluate.dataset=toy", "evaluate.root=toy:8:1",
        f"data.sources.0.shards={shards / 'video'}", f"data.sources.1.shards={shards / 'image'}", f"out={out}",
    ]  # fmt: skip
    command = [here["EDGETAM"], "trial", *words]
    log = tmp_path / "trial.log"
    with log.open("wb") as file:
        trial = subprocess.Popen(command, env=here, stdout=file, stderr=file)
    try:
        until("the job is there", lambda: ask(here, "squeue", "-h", "-o", "%i") or trial.poll() is not None)
        job = ask(here, "squeue", "-h", "-o", "%i")
        assert job, log.read_text()[-3000:]
        begun(here, job, out, 3)
        trial.terminate()
        assert trial.wait(PATIENCE) == TRY_AGAIN, log.read_text()[-3000:]
    finally:
        trial.kill()
    assert ended(here, job) == "CANCELLED"
    until("it has let go", lambda: not ask(here, "squeue", "-h"))
    before = len(steps(out))
    assert list((out / "checkpoints").glob(f"*{before:06d}-stopped.ckpt"))
    again = subprocess.run(command, env=here, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert again.returncode == 0, again.stderr[-3000:]
    assert steps(out) == list(range(1, 31))
    assert (out / "trial.json").is_file()
