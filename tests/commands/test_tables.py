"""Tables put the paper's numbers beside ours only where both are about the same thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgetam_pl.commands.tables import BEGIN, END, PUBLISHED, main, read_results, tables, with_tables


def write_result(folder: Path, slug: str, *, scores: dict[str, float], **said: object) -> None:
    conditions = {
        "model": "edgetam", "protocol": "vos", "prompt": "", "prompts": "masks", "frame_rule": "all", "resolution": 1024,
        "data": "davis17", "set": "DAVIS", "num_sequences": 30, "num_objects": 61, "list_hash": "abc", "data_hash": "def",
        "weights_hash": "123", "precision": "bf16", "date": "2026-11-22", **said,
    }  # fmt: skip
    (folder / slug).mkdir(parents=True)
    (folder / slug / "result.json").write_text(json.dumps({"scores": scores, "conditions": conditions, "curve": {}}))


def row_of(text: str, *words: str) -> str:
    found = [line for line in text.splitlines() if line.startswith("|") and all(word in line for word in words)]
    assert len(found) == 1, found
    return found[0]


def test_a_result_stands_beside_the_papers_number(tmp_path: Path) -> None:
    write_result(tmp_path, "001-davis", scores={"J&F": 88.0})
    row = row_of(tables(read_results(tmp_path)), "| edgetam |", "davis17, 30 sequences")
    assert "| 87.7 | **88.0** (+0.3) |" in row
    assert "1024 px; masks; all; 30 sequences, 61 objects; list abc; data def; weights 123; bf16; 2026-11-22" in row


def test_a_part_of_the_set_does_not(tmp_path: Path) -> None:
    write_result(tmp_path, "001-davis", scores={"J&F": 88.0}, num_sequences=2)
    made = tables(read_results(tmp_path))
    assert "| 87.7 | not run |" in row_of(made, "| edgetam |", "davis17, 30 sequences")
    assert "J&F 88.0" in row_of(made, "001-davis")


def test_averages_need_all_their_sets(tmp_path: Path) -> None:
    for number in range(3):
        words = {"protocol": "first_frame", "prompt": "box", "data": "folder", "set": f"set{number}"}
        write_result(tmp_path, f"00{number}", scores={"J&F": 60.0 + number}, **words)
    row = row_of(tables(read_results(tmp_path)), "| edgetam |", "J&F, box")
    assert "| 71.3 | 61.0, mean of 3 sets, not comparable |" in row


def test_ablations_go_by_their_label(tmp_path: Path) -> None:
    words = {"label": "tab3a_pooled", "data": "sav", "set": "sav_val", "num_sequences": 155}
    write_result(tmp_path, "pooled", scores={"J&F": 60.0}, **words)
    row = row_of(tables(read_results(tmp_path)), "| tab3a_pooled | J&F", "155 sequences", "61.8")
    assert "**60.0** (-1.8)" in row


def test_the_readme_keeps_what_people_wrote(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Ours\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for _ in range(2):
        assert main(["--results", str(tmp_path / "results"), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("# Ours\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("## Table 4") == 1
    with pytest.raises(ValueError, match="must hold"):
        with_tables("no marks", "x")


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"conditions": {}}')
    with pytest.raises(ValueError, match=r"a/result\.json is not a result"):
        read_results(tmp_path)
    (tmp_path / "a" / "result.json").write_text('{"latency": 3}')
    assert read_results(tmp_path) == []


def test_published_numbers_are_all_there() -> None:
    names = [entry.table.partition(":")[0] for entry in PUBLISHED]
    assert {name: names.count(name) for name in names} == {"Table 1": 8, "Table 2": 15, "Table 3": 17, "Table 4": 15}


def test_kept_sweeps_have_tables_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "001-latents"
    folder.mkdir(parents=True)
    kept = {"sweep": "latents", "head": ["configuration", "mean"], "rows": [["latents=none", "60.0"]]}
    (folder / "result.json").write_text(json.dumps(kept))
    readme = tmp_path / "README.md"
    assert main(["--results", str(tmp_path / "results"), "--readme", str(readme)]) == 0
    assert "## Sweep: latents" in readme.read_text()
    assert "| latents=none | 60.0 |" in readme.read_text()
    assert read_results(tmp_path / "results") == []
