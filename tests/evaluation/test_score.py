"""`edgetam score`: equal to the DAVIS-2017 toolkit, and clear about everything that does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetam_pl.commands.score import main
from edgetam_pl.evaluation.score import score_folders
from edgetam_pl.io.label_png import read_labels, write_labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions equal to the truth: two sequences of five frames with two objects each."""
    for sequence in ("cat", "dog"):
        for t in range(5):
            labels = np.zeros((60, 80), dtype=np.uint8)
            labels[10:20, 10:20] = 1
            labels[30:50, 40 + t : 70 + t] = 2
            for role in ("pred", "gt"):
                write_labels(tmp_path / role / sequence / f"{t:05d}.png", labels)
    return tmp_path / "pred", tmp_path / "gt"


@pytest.mark.parametrize("workers", [1, 2])
def test_osvos_on_davis_equals_the_toolkit(shared: Path, tmp_path: Path, workers: int) -> None:
    predictions = shared / "data" / "osvos_predictions" / "davis16_dev"
    expected = json.loads((predictions / "reference_jf.json").read_text())["sequences"]
    words = [
        str(predictions),
        str(shared / "data" / "davis16_dev"),
        "--json",
        str(tmp_path / "s.json"),
        "--workers",
        str(workers),
    ]
    assert main(words) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["rule"] == "davis16"
    assert set(found["sequences"]) == set(expected)
    for name, values in expected.items():
        for key in ("J_all", "F_all", "J_skip", "F_skip"):
            assert found["sequences"][name][key] == pytest.approx(values[key], abs=1e-6), (name, key)
    assert found["scores"]["J"] == pytest.approx(100 * np.mean([v["J_skip"] for v in expected.values()]), abs=1e-6)


def test_the_truth_scores_100(folders: tuple[Path, Path]) -> None:
    result = score_folders(*folders, workers=1)
    assert result.rule == "davis17"
    assert result.report.jf == 100.0
    assert [(r.sequence, r.object, len(r.j)) for r in result.report.rows] == [
        ("cat", "1", 3), ("cat", "2", 3), ("dog", "1", 3), ("dog", "2", 3)
    ]  # fmt: skip


def test_golden_values_of_two_objects(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    for path in truth.rglob("*.png"):
        labels = np.zeros((60, 80), dtype=np.uint8)
        labels[10:20, 10:20], labels[30:50, 40:70] = 1, 2
        write_labels(path, labels)
        labels = np.zeros((60, 80), dtype=np.uint8)
        labels[10:20, 12:22], labels[30:50, 40:70] = 1, 2
        write_labels(prediction / path.parent.name / path.name, labels)
    rows = {row.object: row for row in score_folders(prediction, truth).report.rows if row.sequence == "cat"}
    assert (rows["1"].mean_j, rows["1"].mean_f) == pytest.approx((200 / 3, 55.0))
    assert (rows["2"].mean_j, rows["2"].mean_f) == (100.0, 100.0)


def test_first_and_last_frames_count_only_when_asked_for(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    for name in ("00000.png", "00004.png"):
        write_labels(prediction / "cat" / name, np.zeros((60, 80), dtype=np.uint8))
    assert score_folders(prediction, truth).report.jf == 100.0
    assert score_folders(prediction, truth, skip_first_and_last=False).report.jf == pytest.approx(80.0)


def test_predictions_of_unscored_frames_may_be_missing(folders: tuple[Path, Path]) -> None:
    (folders[0] / "cat" / "00000.png").unlink()
    result = score_folders(*folders, workers=1)
    assert result.report.jf == 100.0
    assert result.as_json()["sequences"]["cat"]["J_all"] is None


def test_an_object_counts_from_its_appearance(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    late = np.zeros((60, 80), dtype=np.uint8)
    late[5:9, 5:9] = 3
    for t in (2, 3):
        labels = read_labels(truth / "cat" / f"{t:05d}.png")
        write_labels(truth / "cat" / f"{t:05d}.png", np.maximum(labels, late))
    rows = {(r.sequence, r.object): r for r in score_folders(prediction, truth).report.rows}
    assert rows["cat", "3"].stems == ("00002", "00003")
    assert rows["cat", "3"].mean_j == 0.0
    assert score_folders(prediction, truth).rule == "folder"


def test_an_object_predicted_too_early_counts_from_there(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    early = np.zeros((60, 80), dtype=np.uint8)
    early[5:9, 5:9] = 3
    for role, frames in ((truth, (3,)), (prediction, (2, 3))):
        for t in frames:
            path = role / "cat" / f"{t:05d}.png"
            write_labels(path, np.maximum(read_labels(path), early))
    rows = {(r.sequence, r.object): r for r in score_folders(prediction, truth).report.rows}
    assert rows["cat", "3"].j == (0.0, 1.0)


def test_void_is_background(folders: tuple[Path, Path]) -> None:
    for path in folders[1].rglob("*.png"):
        labels = read_labels(path)
        labels[55:] = 255
        write_labels(path, labels)
    assert score_folders(*folders).report.jf == 100.0


def test_binary_truth_takes_any_label_for_its_object(folders: tuple[Path, Path]) -> None:
    for path in folders[1].rglob("*.png"):
        write_labels(path, (read_labels(path) > 0).astype(np.uint8) * 255)
    result = score_folders(*folders)
    assert (result.rule, result.report.jf) == ("davis16", 100.0)


def test_a_truth_that_stops_being_binary_is_scored_by_the_rule_that_fits(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    for role in folders:
        for path in (*role.glob("*/00000.png"), *role.glob("*/00001.png")):
            write_labels(path, (read_labels(path) == 1).astype(np.uint8))
    result = score_folders(prediction, truth)
    assert (result.rule, result.report.jf, len(result.report.rows)) == ("folder", 100.0, 4)


def test_folders_of_objects_are_scored_by_the_rule_of_sav(tmp_path: Path) -> None:
    for role in ("pred", "gt"):
        for name, frames in (("000", range(0, 20, 4)), ("001", range(8, 20, 4))):
            for t in frames:
                mask = np.zeros((40, 40), dtype=np.uint8)
                mask[5:20, 5 + t : 20 + t] = 1
                write_labels(tmp_path / role / "sav_1" / name / f"{t:05d}.png", mask)
    for t in range(1, 4):  # frames without truth are ignored
        write_labels(tmp_path / "pred" / "sav_1" / "000" / f"{t:05d}.png", np.ones((40, 40), dtype=np.uint8))
    result = score_folders(tmp_path / "pred", tmp_path / "gt")
    assert result.rule == "sav"
    assert [(r.object, r.stems, r.score) for r in result.report.rows] == [
        ("000", ("00004", "00008", "00012"), 100.0), ("001", ("00012",), 100.0)
    ]  # fmt: skip


def test_nothing_is_written_into_the_folders(folders: tuple[Path, Path]) -> None:
    before = sorted(path.name for folder in folders for path in folder.rglob("*"))
    score_folders(*folders)
    assert sorted(path.name for folder in folders for path in folder.rglob("*")) == before


# ---------------------------------------------------------------------- what does not fit


def test_a_sequence_in_one_folder_only_is_named(folders: tuple[Path, Path]) -> None:
    prediction, truth = folders
    shutil.rmtree(prediction / "dog")
    with pytest.raises(ValueError, match=r"1 sequences are in .*gt and not in .*pred: dog.*--lenient"):
        score_folders(prediction, truth)
    result = score_folders(prediction, truth, strict=False)
    assert (result.left_out, {row.sequence for row in result.report.rows}) == (("dog",), {"cat"})


def test_a_missing_prediction_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "dog" / "00002.png").unlink()
    with pytest.raises(ValueError, match=r"dog: there is no prediction .*00002\.png; every scored frame needs one"):
        score_folders(*folders)
    assert score_folders(*folders, strict=False).report.jf == pytest.approx(100 * (2 + 2 * 2 / 3) / 4)


def test_an_extra_label_is_named_with_the_rule(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "dog" / "00002.png"
    labels = read_labels(path)
    labels[0, 0] = 9
    write_labels(path, labels)
    with pytest.raises(ValueError, match=r"rule davis17.*\n.*00002\.png has the label 9; .* objects 1 to 2"):
        score_folders(*folders)
    with pytest.raises(ValueError, match=r"rule folder.*\n.*objects that the truth never shows, label 9"):
        score_folders(*folders, rule="folder")
    assert score_folders(*folders, strict=False).report.jf == 100.0


def test_a_wrong_size_is_named(folders: tuple[Path, Path]) -> None:
    write_labels(folders[0] / "cat" / "00001.png", np.zeros((30, 40), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"cat: .*00001\.png is \(30, 40\) and its truth \(60, 80\)"):
        score_folders(*folders)


def test_a_colour_mask_is_named(folders: tuple[Path, Path]) -> None:
    Image.new("RGB", (80, 60)).save(folders[0] / "cat" / "00001.png")
    with pytest.raises(ValueError, match=r"cat: .*00001\.png is RGB; masks are PNGs with a palette"):
        score_folders(*folders)


def test_an_unreadable_file_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "cat" / "00001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"cat: .*00001\.png is not a PNG"):
        score_folders(*folders)


def test_all_problems_are_listed_at_once(folders: tuple[Path, Path]) -> None:
    (folders[0] / "dog" / "00001.png").unlink()
    write_labels(folders[0] / "cat" / "00003.png", np.zeros((30, 40), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"(?s)cat: .*00003\.png.*dog: .*00001\.png"):
        score_folders(*folders)


def test_objects_of_sav_must_match(tmp_path: Path) -> None:
    for role, names in (("pred", ("000", "007")), ("gt", ("000", "001"))):
        for name in names:
            for t in range(3):
                write_labels(tmp_path / role / "v" / name / f"{t:05d}.png", np.ones((8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"(?s)no folder .*001; every.*007 is an object that the truth does not have"):
        score_folders(tmp_path / "pred", tmp_path / "gt")


def test_an_empty_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    (tmp_path / "gt").mkdir()
    with pytest.raises(ValueError, match="gt holds no sequences"):
        score_folders(tmp_path / "pred", tmp_path / "gt")
    with pytest.raises(ValueError, match=r"no folder of predictions at .*none"):
        score_folders(tmp_path / "none", tmp_path / "gt")
    (tmp_path / "gt" / "cat").mkdir()
    (tmp_path / "pred" / "cat").mkdir()
    with pytest.raises(ValueError, match="cat holds neither masks"):
        score_folders(tmp_path / "pred", tmp_path / "gt")


def test_a_sequence_too_short_for_the_rule_is_named(tmp_path: Path) -> None:
    for role in ("pred", "gt"):
        for t in range(2):
            write_labels(tmp_path / role / "cat" / f"{t:05d}.png", np.ones((8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"cat: no frame is left .*--all-frames"):
        score_folders(tmp_path / "pred", tmp_path / "gt")
    assert score_folders(tmp_path / "pred", tmp_path / "gt", skip_first_and_last=False).report.jf == 100.0
