"""A run that is given again: what its folder holds is verified and compared before anything goes on, and nothing that is
damaged, of another run, or of other settings is taken without a word."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import changed_in, losses, training

from edgetam_pl.config import ModelConfig, TrainConfig
from edgetam_pl.io.locks import folder_lock
from edgetam_pl.training import fit
from edgetam_pl.training.check import with_accumulation
from edgetam_pl.training.checkpoints import PARTS, layout_of, newest_whole
from edgetam_pl.training.curves import STEP, keep_lines, read_lines
from edgetam_pl.training.optim import schedule_of
from edgetam_pl.training.record import Record
from edgetam_pl.training.run_folder import Start, survey

PHASES = "{frames:2,steps:2,batch:1,distil:false},{frames:2,steps:2,batch:1,distil:false}"

NEWEST_FIRST = (
    "phase2-done.ckpt", "phase2-step000002.ckpt", "phase2-step000001.ckpt", "phase1-done.ckpt", "phase1-step000002.ckpt",
    "phase1-step000001.ckpt",
)  # fmt: skip


@pytest.fixture(scope="module")
def cfg(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Of a finished run of four steps, with a checkpoint at each."""
    words = ["checkpoint_every=1", "keep_checkpoints=9", "data.workers=0", "trainer.enable_progress_bar=false"]
    cfg = training(shards, tmp_path_factory.mktemp("finished"), *words, phases=PHASES)
    fit.run(cfg)
    return cfg


@pytest.fixture(scope="module")
def slim(cfg: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same run with a dozen of each checkpoint's tensors, so that looking at one takes milliseconds."""
    out = tmp_path_factory.mktemp("slim")
    shutil.copytree(cfg.out, out, dirs_exist_ok=True)
    for path in (out / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        for state in (content["state_dict"], content["optimizer_states"][0]["state"]):
            for name in list(state)[12:]:
                del state[name]
        content["edgetam_pl"]["layout"] = layout_of(content)
        torch.save(content, path)
    return replace(cfg, out=str(out))


@pytest.fixture
def copied(cfg: TrainConfig, tmp_path: Path) -> TrainConfig:
    """The run in a folder of its own."""
    shutil.copytree(cfg.out, tmp_path / "run")
    return replace(cfg, out=str(tmp_path / "run"))


@pytest.fixture
def slim_copied(slim: TrainConfig, tmp_path: Path) -> TrainConfig:
    shutil.copytree(slim.out, tmp_path / "run")
    return replace(slim, out=str(tmp_path / "run"))


def surveyed(cfg: TrainConfig, **changed: Any) -> Start:
    return survey(with_accumulation(changed_in(cfg, **changed)))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of every file: when it was written, and its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def checkpoints(cfg: TrainConfig) -> Path:
    return Path(cfg.out) / "checkpoints"


# --- damage ---


def flip(path: Path, at: int, bits: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def flip_in(path: Path, rng: np.random.Generator, *, pickled: bool) -> None:
    """A byte of a member of the archive: of data.pkl, or of a tensor."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith("data.pkl") == pickled and m.file_size]
        members = [m for m in members if pickled or "/data/" in m.filename]
        member = members[rng.integers(len(members))]
    header = path.read_bytes()[member.header_offset : member.header_offset + 30]
    begin = member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    flip(path, begin + int(rng.integers(member.file_size)))


def cut(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, int(rng.integers(1, path.stat().st_size)))


Spoil = Callable[[Path, np.random.Generator], object]


def rewritten(change: Callable[[dict[str, Any], np.random.Generator], object]) -> Spoil:
    """Save a checkpoint again with its contents changed, so that all checksums are right."""

    def spoil(path: Path, rng: np.random.Generator) -> None:
        content = torch.load(path, weights_only=True)
        changed = change(content, rng)
        torch.save(content if changed is None else changed, path)

    return spoil


def some_weight(content: dict[str, Any], rng: np.random.Generator) -> str:
    names = sorted(name for name, value in content["state_dict"].items() if value.is_floating_point() and value.numel())
    return names[rng.integers(len(names))]


def nan_weight(content: dict[str, Any], rng: np.random.Generator) -> None:
    weight = content["state_dict"][some_weight(content, rng)]
    weight[tuple(int(rng.integers(size)) for size in weight.shape)] = (torch.nan, torch.inf, -torch.inf)[rng.integers(3)]


def nan_moment(content: dict[str, Any], rng: np.random.Generator) -> None:
    state = content["optimizer_states"][0]["state"]
    state[sorted(state)[rng.integers(len(state))]]["exp_avg"].fill_(torch.nan)


def no_weight(content: dict[str, Any], rng: np.random.Generator) -> None:
    del content["state_dict"][some_weight(content, rng)]


def other_shape(content: dict[str, Any], rng: np.random.Generator) -> None:
    name = some_weight(content, rng)
    content["state_dict"][name] = content["state_dict"][name][None]


def no_moments(content: dict[str, Any], rng: np.random.Generator) -> None:
    state = content["optimizer_states"][0]["state"]
    del state[sorted(state)[rng.integers(len(state))]]


def no_part(content: dict[str, Any], rng: np.random.Generator) -> None:
    del content[("edgetam_pl", *PARTS)[rng.integers(1 + len(PARTS))]]


def wrong_part(content: dict[str, Any], rng: np.random.Generator) -> None:
    content[("edgetam_pl", *PARTS)[rng.integers(1 + len(PARTS))]] = (None, 3, (1, 2))[rng.integers(3)]


def wrong_card(content: dict[str, Any], rng: np.random.Generator) -> None:
    key = ("phase", "steps_done", "batches_seen", "run")[rng.integers(4)]
    content["edgetam_pl"][key] = (-1, "2", 1e15, 1 << 50, [], {"id": 3}, True)[rng.integers(7)]


def replaced_by(data: bytes) -> Spoil:
    return lambda path, rng: path.write_bytes(data)


def no_file(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    kinds = (lambda: path.symlink_to("nowhere"), lambda: path.symlink_to(path.name), path.mkdir, lambda: os.mkfifo(path))
    kinds[rng.integers(4)]()


def zeros(path: Path, rng: np.random.Generator) -> None:
    """A page that never reached the disk."""
    data = bytearray(path.read_bytes())
    begin = int(rng.integers(len(data) // 4096)) * 4096
    data[begin : begin + 4096] = bytes(len(data[begin : begin + 4096]))
    path.write_bytes(data)


def compressed(path: Path, rng: np.random.Generator) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def marked_as_a_folder(path: Path, rng: np.random.Generator) -> None:
    """One bit of a tensor's entry in the archive's directory, for which torch would read anything, without a word."""
    with zipfile.ZipFile(path) as archive:
        entries, at = [], archive.start_dir
        for member in archive.infolist():
            if "/data/" in member.filename:
                entries.append(at)
            at += 46 + len(member.orig_filename) + len(member.extra) + len(member.comment)
    flip(path, entries[rng.integers(len(entries))] + 38, bits=0x10)


DAMAGE: dict[str, tuple[int, Spoil]] = {
    "a byte of a tensor": (24, lambda path, rng: flip_in(path, rng, pickled=False)),
    "a byte of data.pkl": (16, lambda path, rng: flip_in(path, rng, pickled=True)),
    "cut off": (16, cut),
    "empty": (2, replaced_by(b"")),
    "text": (2, replaced_by(b"<!DOCTYPE html><html><body>404</body></html>\n")),
    "a pointer": (2, replaced_by(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
    "a list": (2, rewritten(lambda content, rng: [content["state_dict"]])),
    "a tensor": (2, rewritten(lambda content, rng: torch.zeros(3))),
    "an object": (2, rewritten(lambda content, rng: {**content, "code": Path("x")})),
    "a weight that is no number": (12, rewritten(nan_weight)),
    "a moment that is no number": (6, rewritten(nan_moment)),
    "a weight less": (8, rewritten(no_weight)),
    "a weight of another shape": (6, rewritten(other_shape)),
    "moments less": (6, rewritten(no_moments)),
    "a part less": (12, rewritten(no_part)),
    "a part of another kind": (12, rewritten(wrong_part)),
    "a card that cannot be": (12, rewritten(wrong_card)),
    "no file": (8, no_file),
    "compressed": (2, compressed),
    "a tensor marked as a folder": (4, marked_as_a_folder),
}
"""Kind -> how often, how. None of it leaves the checkpoint as it was."""

MAYBE: dict[str, tuple[int, Spoil]] = {
    "a byte anywhere": (30, lambda path, rng: flip(path, int(rng.integers(path.stat().st_size)))),
    "a byte of the directory": (20, lambda path, rng: flip(path, path.stat().st_size - 1 - int(rng.integers(4000)))),
    "a page of zeros": (10, zeros),
    "more at the end": (4, lambda path, rng: path.write_bytes(path.read_bytes() + rng.bytes(100))),
}
"""It may hit padding, or what no reader reads."""

CASES = [(kind, number) for kind, (count, _) in {**DAMAGE, **MAYBE}.items() for number in range(count)]


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(("kind", "number"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_before_it_is_used(
    kind: str, number: int, slim: TrainConfig, tmp_path: Path
) -> None:
    """One is damaged, or the two newest are."""
    rng = np.random.default_rng((zlib.crc32(kind.encode()), number))
    for path in checkpoints(slim).iterdir():
        os.link(path, tmp_path / path.name)
    damaged = NEWEST_FIRST[: 1 + number % 2]
    for name in damaged:
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()  # or the original would change, too
        (tmp_path / name).write_bytes(data)
        {**DAMAGE, **MAYBE}[kind][1](tmp_path / name, rng)
    said: list[str] = []
    found = newest_whole(tmp_path, said.append)
    assert found is not None
    used = NEWEST_FIRST.index(found.path.name)
    assert used <= len(damaged)
    assert len(said) == used
    for name, line in zip(NEWEST_FIRST, said):
        assert line.startswith(f"{name} is ")
    if found.path.name in damaged:
        assert kind in MAYBE
        assert equal(*(torch.load(f / found.path.name, weights_only=True) for f in (tmp_path, checkpoints(slim))))


def test_the_table_is_large_enough() -> None:
    assert len(CASES) >= 200


def test_checkpoints_of_which_none_can_be_used_are_not_begun_anew_over(slim_copied: TrainConfig) -> None:
    for path in checkpoints(slim_copied).iterdir():
        cut(path, np.random.default_rng(0))
    before = contents(Path(slim_copied.out))
    with pytest.raises(ValueError, match=r"None of the 6 checkpoints in .*phase1-step000001\.ckpt"):
        fit.run(slim_copied)
    assert contents(Path(slim_copied.out)) == before


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"run_id": 3}', b'{"config": {}}', None,
        b'{"run_id": "a", "identity": []}', b'{"run_id": "a", "changes": [3]}', b'{"run_id": "a", "changes": {}}',
        b'{"run_id": "a", "finished": 1}', b"<html>", b'{"run_id": "a"} {"run_id": "b"}',
    ],
)  # fmt: skip
def test_garbage_in_place_of_run_json_is_moved_aside_and_the_run_keeps_its_id(
    text: bytes | None, slim_copied: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(slim_copied.out) / "run.json"
    before = json.loads(path.read_text())
    path.unlink()
    path.symlink_to("nowhere") if text is None else path.write_bytes(text)
    start = surveyed(slim_copied)
    assert start.finished
    assert start.begin(trains=not start.finished) == before["run_id"]
    assert "it was moved to run.json.damaged" in capsys.readouterr().out
    assert os.path.lexists(path.with_name("run.json.damaged"))
    after = json.loads(path.read_text())
    assert [after[key] for key in ("run_id", "identity")] == [before[key] for key in ("run_id", "identity")]


@pytest.mark.parametrize("number", range(30))
def test_run_json_with_a_byte_less_or_changed_is_refused_named_or_says_the_same(
    number: int, slim_copied: TrainConfig
) -> None:
    rng, path = np.random.default_rng(number), Path(slim_copied.out) / "run.json"
    before = json.loads(path.read_text())
    cut(path, rng) if number % 3 == 0 else flip(path, int(rng.integers(path.stat().st_size)), bits=1 << number % 4)
    said, start = "", None
    try:
        start = surveyed(slim_copied)
    except ValueError as error:
        said = str(error)
    if start is None:
        assert " there, " in said  # a setting, or the id, reads differently: named with both values
    elif start.record is not None:
        assert [start.record.content[key] for key in ("run_id", "identity")] == [
            before[key] for key in ("run_id", "identity")
        ]
    else:
        assert start.record_is_damaged


def test_a_bit_that_gives_a_setting_the_name_of_another_is_seen(slim_copied: TrainConfig) -> None:
    """Of two settings with one name JSON keeps the last, and the one that is missing would count as added later: the
    checksum tells. So it does where the name of all settings is damaged, and with them nothing would be compared."""
    path = Path(slim_copied.out) / "run.json"
    text = path.read_text()
    for name, damaged in (("data.sources[1].batch", "data.sources[0].batch"), ("identity", "idejtity")):
        assert text.count(f'"{name}"') == 1
        path.write_text(text.replace(f'"{name}"', f'"{damaged}"'))
        assert "its checksum is of other contents" in surveyed(slim_copied).record_is_damaged


@pytest.mark.parametrize("number", range(12))
def test_a_line_that_cannot_be_read_is_named_and_dropped_alone(
    number: int, slim_copied: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    path, rng = Path(slim_copied.out) / "curves.jsonl", np.random.default_rng(number)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    at = int(rng.integers(4))
    torn = lines[at][: int(rng.integers(1, len(lines[at]) - 2))] + "\n"
    foreign = (torn, "# a note\n", "[1, 2]\n", "3\n", '{"other": 1}\n', "\x00\x01\n", "\n")[number % 7]
    replaces = number % 2
    path.write_bytes("".join([*lines[:at], foreign, *lines[at + replaces :]]).encode() + b'{"progress/st\xff')
    keep_lines(path, 4)
    kept = [line for i, line in enumerate(lines) if not replaces or i != at]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [json.loads(line) for line in kept]
    assert foreign.startswith('{"other') or f"curves.jsonl: line {at + 1} cannot be read" in caplog.text
    keep_lines(path, 2)
    assert [line[STEP] for line in read_lines(path)] == [step for step in (1, 2) if not replaces or step != at + 1]


@pytest.mark.parametrize("number", range(10))
def test_damaged_weights_of_a_finished_run_are_not_believed(number: int, slim_copied: TrainConfig) -> None:
    path, rng = Path(slim_copied.out) / "weights.pt", np.random.default_rng(number)
    assert surveyed(slim_copied).weights_are_whole()
    cut(path, rng) if number % 2 else flip_in(path, rng, pickled=number % 4 == 0)
    assert not surveyed(slim_copied).weights_are_whole()


# --- the same command ---


def test_a_finished_run_given_again_changes_nothing(slim_copied: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(Path(slim_copied.out))
    fit.run(slim_copied)
    assert "was finished before, with these settings; there is nothing to do" in capsys.readouterr().out
    shutil.rmtree(checkpoints(slim_copied))
    fit.run(slim_copied)
    assert "there is nothing to do" in capsys.readouterr().out
    assert contents(Path(slim_copied.out)) == {name: kept for name, kept in before.items() if "checkpoints" not in name}


def test_weights_that_are_gone_are_saved_again_and_weights_of_others_are_left(copied: TrainConfig) -> None:
    path = Path(copied.out) / "weights.pt"
    saved = path.read_bytes()
    path.unlink()
    fit.run(copied)
    assert path.read_bytes() == saved
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match=r"its weights\.pt is not the file that the run saved"):
        fit.run(copied)
    for name in ("run.json", "checkpoints"):
        shutil.move(Path(copied.out) / name, Path(copied.out).parent / name)
    with pytest.raises(ValueError, match=r"weights\.pt is there without the checkpoints of a run"):
        fit.run(copied)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_as_if_nothing_had_been(
    cfg: TrainConfig, copied: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte in the last step, drafts of a killed writer, a torn line: the result is that of the undisturbed run."""
    out, folder = Path(copied.out), checkpoints(copied)
    (folder / "phase2-done.ckpt").unlink()
    (out / "weights.pt").unlink()
    flip_in(folder / "phase2-step000002.ckpt", np.random.default_rng(0), pickled=False)
    (folder / ".phase2-step000002.ckpt.4711").write_bytes(b"half")
    (folder / ".partial.another-machine.4711.x").mkdir()
    with (out / "curves.jsonl").open("a") as file:
        file.write('{"progress/step": 5, "train/')
    fit.run(copied)
    assert "phase2-step000002.ckpt is damaged" in capsys.readouterr().out
    assert losses(out) == losses(Path(cfg.out))
    ours, theirs = (torch.load(Path(one.out) / "weights.pt", weights_only=True) for one in (copied, cfg))
    assert equal(ours, theirs)
    assert not list(out.rglob(".*"))
    assert fit.run(copied) == out / "weights.pt"
    assert "nothing to do" in capsys.readouterr().out


def test_an_export_that_is_still_due_is_all_that_is_done(copied: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a finished run, or one that was stopped while it exported."""
    exported: list[str] = []
    monkeypatch.setattr(fit, "export_at_end", lambda model, cfg: exported.append(cfg.out))
    before = contents(Path(copied.out))
    fit.run(replace(copied, export_on_end=True))
    assert exported == [f"{copied.out}/packages"]
    assert contents(Path(copied.out)) == before
    shutil.rmtree(checkpoints(copied))  # from its weights, then
    fit.run(replace(copied, export_on_end=True))
    assert len(exported) == 2


def test_two_processes_do_not_train_in_one_folder(slim_copied: TrainConfig) -> None:
    before = contents(Path(slim_copied.out))
    with (
        folder_lock(Path(slim_copied.out), name="run.lock"),
        pytest.raises(ValueError, match=rf"is being run by another process \(number {os.getpid()} on "),
    ):
        fit.run(slim_copied)
    assert contents(Path(slim_copied.out)) == before


# --- other settings ---


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"stage__optim__lr": 0.5}, r"a finished run with other settings[^:]*:\n  stage\.optim\.lr: \S+ there, 0\.5 now\n"),
        ({"seed": 7}, r"  seed: 123 there, 7 now"),
        ({"stage__phases__1__steps": 3}, r"  stage\.phases\[1\]\.steps: 2 there, 3 now"),
        ({"data__sources__0__weight": 0.5}, r"  data\.sources\[0\]\.weight: "),
    ],
)
def test_other_settings_are_refused_by_key_and_nothing_is_touched(
    changed: dict[str, Any], named: str, slim_copied: TrainConfig
) -> None:
    before = contents(Path(slim_copied.out))
    with pytest.raises(ValueError, match=named) as refused:
        fit.run(changed_in(slim_copied, **changed))
    assert "accept_changes=true" in str(refused.value)
    assert contents(Path(slim_copied.out)) == before


def test_another_model_in_the_folder_is_said_in_a_line(slim_copied: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"  model\.name: toy there, edgetam now\nGive") as refused:
        surveyed(slim_copied, model=ModelConfig())
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("key", ["seed", "run_id"])
def test_a_checkpoint_of_another_run_is_not_taken_for_ones_own(key: str, slim_copied: TrainConfig) -> None:
    """The same model and step, with another seed; or another run of the same settings."""
    path = checkpoints(slim_copied) / "phase2-done.ckpt"
    content = torch.load(path, weights_only=True)
    run = content["edgetam_pl"]["run"]
    run |= {"id": "other"} if key == "run_id" else {"settings": run["settings"] | {"seed": 7}}
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"\n  {key}: \w+ there, \w+ now\n"):
        surveyed(slim_copied)


def test_a_checkpoint_without_an_identity_needs_a_word(slim_copied: TrainConfig) -> None:
    for path in checkpoints(slim_copied).iterdir():
        content = torch.load(path, weights_only=True)
        del content["edgetam_pl"]["run"], content["edgetam_pl"]["layout"]
        torch.save(content, path)
    with pytest.raises(ValueError, match="of an earlier version, which did not record its settings"):
        surveyed(slim_copied)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"stage__optim__lr": 0.5}, "nothing is left to train"),
        ({"stage__phases__0__steps": 3}, r"phase 2 is under way, so .*\n  stage\.phases\[0\]"),
        ({"stage__phases__1__steps": 1}, r"has done 4 steps, more than the 3 that phase 2 now ends at"),
        ({"model__memory_ffn": 64}, r"its model is built, so .*\n  model\.memory_ffn"),
        ({"load_parts": "images"}, r"the run has begun, so .*\n  load_parts"),
    ],
)
def test_what_cannot_take_effect_is_refused_even_when_it_is_asked_for(
    changed: dict[str, Any], why: str, slim_copied: TrainConfig
) -> None:
    with pytest.raises(ValueError, match=why):
        surveyed(slim_copied, accept_changes=True, **changed)


@pytest.mark.parametrize("last", ["phase2-done.ckpt", "phase2-step000002.ckpt"])
def test_changes_that_are_accepted_take_effect_are_said_and_recorded(
    last: str, copied: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished run, two steps longer and at another rate: the scheduler's state does not win."""
    for name in NEWEST_FIRST[: NEWEST_FIRST.index(last)]:
        (checkpoints(copied) / name).unlink()
    assert copied.stage.optim.encoder_lr is None or copied.stage.optim.encoder_lr < 0.5
    changed = changed_in(copied, stage__phases__1__steps=4, stage__optim__lr=0.5, accept_changes=True)
    fit.run(changed)
    said = capsys.readouterr().out
    assert "stage.phases[1].steps: 2 there, 4 now" in said
    factor = schedule_of(changed.stage.optim, changed.stage.phases[1])
    assert "the learning rate of the next step: " in said
    assert f"{0.5 * factor(2):.4g} now" in said
    lines = read_lines(Path(copied.out) / "curves.jsonl")
    assert [line[STEP] for line in lines] == [1, 2, 3, 4, 5, 6]
    # a line is written after the scheduler's step
    assert [line["lr/max"] for line in lines[4:]] == pytest.approx([0.5 * factor(3), 0.5 * factor(4)])
    record = json.loads((Path(copied.out) / "run.json").read_text())
    (change,) = record["changes"]
    assert change["step"] == 4
    assert change["keys"]["stage.phases[1].steps"] == [2, 4]
    assert change["keys"]["stage.optim.lr"][1] == record["config"]["stage"]["optim"]["lr"] == 0.5
    fit.run(replace(changed, accept_changes=False))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"stage\.phases\[1\]\.steps: 4 there, 2 now"):
        fit.run(copied)


def test_a_change_that_was_accepted_holds_until_the_next_checkpoint_says_so(slim_copied: TrainConfig) -> None:
    (checkpoints(slim_copied) / "phase2-done.ckpt").unlink()
    (checkpoints(slim_copied) / "phase2-step000002.ckpt").unlink()
    surveyed(slim_copied, seed=7, accept_changes=True).begin(trains=True)
    assert surveyed(slim_copied, seed=7).changes == ()
    with pytest.raises(ValueError, match="seed: 7 there, 123 now"):
        surveyed(slim_copied)
    with pytest.raises(ValueError, match=r"seed: 123 there, 8 now|seed: 7 there, 8 now"):
        surveyed(slim_copied, seed=8)


def test_a_run_without_a_checkpoint_begins_anew_with_what_was_changed(
    slim_copied: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """It failed before the first one: there is nothing to protect, but it is said and recorded."""
    out = Path(slim_copied.out)
    shutil.rmtree(checkpoints(slim_copied))
    (out / "weights.pt").unlink()
    record = Record.read(out / "run.json")
    assert record is not None
    del record.content["finished"]
    record.write(out / "run.json")
    surveyed(slim_copied, seed=7).begin(trains=True)
    assert "has no checkpoint yet: the run begins anew, with what was changed:\n  seed: 123 there" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text())["changes"][0]["keys"] == {"seed": [123, 7]}


def test_other_parameters_inside_a_phase_are_refused_in_a_sentence(copied: TrainConfig) -> None:
    (checkpoints(copied) / "phase2-done.ckpt").unlink()
    (checkpoints(copied) / "phase2-step000002.ckpt").unlink()
    with pytest.raises(ValueError, match="Other parameters are trained than when this checkpoint was saved"):
        fit.run(changed_in(copied, stage__frozen=["memory_encoder"], accept_changes=True))


def test_a_dry_run_refuses_what_a_run_would_and_writes_nothing(slim_copied: TrainConfig) -> None:
    before = contents(Path(slim_copied.out))
    with pytest.raises(ValueError, match="seed: 123 there, 7 now"):
        fit.run(replace(slim_copied, seed=7, dry_run=True))
    assert contents(Path(slim_copied.out)) == before


def test_a_phase_that_ends_before_its_steps_is_an_error(shards: Path, tmp_path: Path) -> None:
    words = ["data.workers=0", "trainer.enable_progress_bar=false", "trainer.limit_train_batches=1"]
    cfg = training(shards, tmp_path, *words, phases="{frames:2,steps:2,batch:1,distil:false}")
    with pytest.raises(ValueError, match=r"Phase 1 ended after step 1 of 2, trainer\.limit_train_batches=1;"):
        fit.run(cfg)
    assert not (tmp_path / "weights.pt").exists()
    assert (tmp_path / "checkpoints" / "phase1-step000001-stopped.ckpt").is_file()
