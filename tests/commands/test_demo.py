"""`make demo` at its smallest: every part runs, the report is whole, and running again repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgetam_pl.commands import demo

pytestmark = pytest.mark.slow


def test_the_demo_runs_through_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert demo.main(["--out", str(out), "--scale", "smoke"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    for key in ("teacher_jf", "student_jf", "untrained_jf", "repeat_jf"):
        assert 0 <= summary[key] <= 100
    assert summary["seconds"] > 0
    assert len(summary["packages"]) == 4
    assert all((out / "packages" / name).is_dir() for name in summary["packages"])
    assert summary["versions"]["torch"]
    page = (out / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<img") >= 2

    weights = out / "finetune" / "weights.pt"
    before = weights.stat().st_mtime_ns
    capsys.readouterr()
    assert demo.main(["--out", str(out), "--scale", "smoke"]) == 0
    assert capsys.readouterr().out.count("finished before") == 8
    assert weights.stat().st_mtime_ns == before
    assert json.loads((out / "summary.json").read_text()) == summary


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo or smoke"):
        demo.main(["--out", str(tmp_path), "--scale", "huge"])
