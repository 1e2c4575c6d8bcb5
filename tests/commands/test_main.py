"""The command line as a whole: every command explains itself, mistakes end in one sentence and status 2."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from smallest import SMALL

from edgetam_pl import config, weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.main import COMMANDS, Composed, _load, main
from edgetam_pl.config import ShowConfig
from edgetam_pl.data.loader import WorkerDiedError


def schema_of(command: object) -> str:
    """The types of the fields of a command's configuration."""
    schema = getattr(config, command.schema) if isinstance(command, Composed) else None
    return "" if schema is None else " ".join(str(field.type) for field in dataclasses.fields(schema))


def toy(*words: str) -> ShowConfig:
    return composed(ShowConfig, command="show", overrides=["model=toy", *SMALL, *words])[0]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "toy.pt"
    weights.save_official(build_model(toy().model), path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said when a command is refused: one line on stderr, none of it a traceback."""
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("edgetam")
    assert "Traceback" not in said
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("command", [name for name, known in COMMANDS.items() if "ModelConfig" in schema_of(known)])
def test_an_impossible_model_is_refused_before_anything_else(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, command, "model.compressor.spatial_latents=200")
    assert "1, 4, 16, 64, 256, 1024, 4096" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pipeline", "--scale", "smoke"], "pipeline is now called demo"),
        (["report", "a", "b"], "report is now called compare"),
        (["evaluate", "data=davis17"], "write dataset=davis17"),
    ],
)
def test_an_old_word_is_answered_with_the_new_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *words)


def test_what_the_page_took_is_sent_from_the_demo_to_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--weights", "random"])
    assert "`edgetam app`" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "--cfg", "job"]])
def test_a_reader_may_leave_before_the_end(words: list[str]) -> None:
    told = subprocess.Popen(
        [sys.executable, "-m", "edgetam_pl.commands.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert told.stdout is not None
    assert told.stderr is not None
    told.stdout.close()
    assert told.stderr.read() == b""
    assert told.wait() == 0


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([name, "--help"])
    except SystemExit as end:  # argparse
        status = end.code
    assert status == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "trian")
    assert "'trian'" in said
    assert "train" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["show", "modell=edgetam"], "modell"),
        (["show", "model.dimm=8"], "dimm"),
        (["show", "model.dim=12"], "dim is 12"),
        (["train", "stage.phases=[]"], "stage.phases"),
        (["train", "weights=nowhere.pt", "model=toy", "stage=toy_video"], "nowhere.pt"),
        (["plan", "stage.name=films"], "stage.name"),
    ],
)
def test_a_mistake_ends_in_one_sentence_that_names_it(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(capsys, *words)


def test_show_prints_parts_and_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "model=toy"]) == 0
    said = capsys.readouterr().out
    for word in ("image_encoder", "memory_attention", "parameters", "GFLOPs", "memorize"):
        assert word in said


def test_inspect_says_what_a_file_holds(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "inspect", str(official), "--keys"]) == 0
    said = capsys.readouterr().out
    assert "official" in said
    assert "like edgetam" in said
    assert "maskmem_tpos_enc" in said


def test_a_released_architecture_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_model(composed(ShowConfig, command="show", overrides=["model=edgetam"])[0].model)
    weights.save_official(model, tmp_path / "edgetam.pt")
    assert main(["weights", "inspect", str(tmp_path / "edgetam.pt")]) == 0
    assert "edgetam (every name and shape)" in capsys.readouterr().out


def test_converting_there_and_back_changes_nothing(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, again = tmp_path / "ours.ckpt", tmp_path / "again.pt"
    assert main(["weights", "convert", str(official), str(ours), "--model", "toy", *SMALL]) == 0
    capsys.readouterr()
    assert main(["weights", "inspect", str(ours)]) == 0
    said = capsys.readouterr().out
    assert "toy (recorded), 64 px" in said
    assert "version" in said
    assert main(["weights", "convert", str(ours), str(again)]) == 0  # our checkpoint says which model it is
    first, last = (torch.load(path, weights_only=True)["model"] for path in (official, again))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_a_conversion_that_fails_leaves_nothing(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "weights", "convert", str(official), str(tmp_path / "out.ckpt"), "--model", "toy")
    assert "does not fit this model" in said
    assert not list(tmp_path.iterdir())


def test_an_official_file_needs_its_model_named(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model" in refused(capsys, "weights", "convert", str(official), str(tmp_path / "out.ckpt"))


def test_a_missing_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.pt" in refused(capsys, "weights", "inspect", "nowhere.pt")


def test_a_truncated_checkpoint_is_named_with_its_size(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(official.read_bytes()[:5000])
    said = refused(capsys, "weights", "inspect", str(cut))
    assert "5000 bytes" in said
    assert "truncated" in said


def test_something_else_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": {}}, tmp_path / "other.pt")
    assert "neither 'model'" in refused(capsys, "weights", "inspect", str(tmp_path / "other.pt"))


def test_a_checkpoint_of_another_model_is_refused(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "bench", "model=edgetam", f"weights={official}")
    assert "does not fit this model" in said


def test_an_end_that_explains_itself_ends_in_its_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead worker's advice used to be the last line of a traceback of a hundred."""

    def died(_: list[str]) -> int:
        raise WorkerDiedError("A data worker was killed. Use fewer workers.")

    monkeypatch.setattr("edgetam_pl.commands.doctor.main", died)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "edgetam doctor: A data worker was killed. Use fewer workers.\n"


def test_a_log_file_shows_a_line_as_soon_as_it_is_printed(tmp_path: Path) -> None:
    script = """
import os
from edgetam_pl.commands import doctor, main
def killed(_):
    print("step 1")
    os._exit(0)
doctor.main = killed
main.main(["doctor"])
"""
    with (tmp_path / "log.txt").open("w") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
    assert (tmp_path / "log.txt").read_text() == "step 1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["app", "--prt", "3"], "Did you mean --port?"),
        (["track", "example", "--pont=3,4", "--out", "a.mp4"], "Did you mean --point?"),
        (["split", "mine", "--sead", "1"], "Did you mean --seed?"),
    ],
)
def test_a_mistyped_flag_is_answered_with_the_nearest_one(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err


def test_a_mistyped_data_set_or_list_is_answered_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "JPEGImages" / "cow").mkdir(parents=True)
    (tmp_path / "Annotations" / "cow").mkdir(parents=True)
    (tmp_path / "val.txt").write_text("cow\n")
    for words, said in (
        (["dataset=davs17", "root=x"], "Did you mean davis17?"),
        (["dataset=davis", f"root={tmp_path}", "split=vall"], "Did you mean val?"),
    ):
        assert main(["evaluate", "model=toy", "weights=random", *words]) == 2
        assert said in capsys.readouterr().err


def test_cycles_are_looked_for_again_once_a_command_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`edgetam train` and its like import with the collector off (begin.py)."""
    monkeypatch.setattr("gc.freeze", lambda: None)
    gc.disable()
    try:
        assert _load("edgetam_pl.io.environment", "versions") is not None
        assert gc.isenabled()
    finally:
        gc.enable()
