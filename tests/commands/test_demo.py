"""`make demo` at its smallest, on generated and on real pictures: every part runs, the report is whole, and running again
repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shipped_stub
from omegaconf import OmegaConf
from smallest import SMALL

import edgetam_pl as et
from edgetam_pl.commands import demo
from edgetam_pl.commands.compose import model_config
from edgetam_pl.io import shipped


def smaller_models(folder: Path, *names: str) -> None:
    """The models of these names, as small as they get, in a configs/ of the user's own, which wins over the package's."""
    (folder / "configs" / "model").mkdir(parents=True)
    for name in names:
        words = [word for word in SMALL if "compressor" not in word or model_config(name).compressor.kind == "perceiver"]
        path = folder / "configs" / "model" / f"{name}.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.structured(model_config(name, *words))))


@pytest.mark.slow
def test_the_demo_runs_through_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller_models(tmp_path, "toy", "toy_teacher")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "demo"
    words = ["data=toy", "--out", str(out), "--scale", "smoke"]
    assert demo.main(words) == 0
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
    assert demo.main(words) == 0
    assert capsys.readouterr().out.count("finished before") == 8
    assert weights.stat().st_mtime_ns == before
    assert json.loads((out / "summary.json").read_text()) == summary


@pytest.mark.slow
def test_the_real_demo_is_taught_by_the_shipped_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without packages, which the demo on generated data makes in the same way."""
    monkeypatch.setattr(demo.Demo, "export", lambda self: {"packages": {"none": 0}, "precision": "fp16", "refused": []})
    shipped_stub.put_in_place(tmp_path / "package", monkeypatch)
    out = tmp_path / "demo"
    assert demo.main(["--out", str(out), "--scale", "smoke"]) == 0
    records = {path.stem: json.loads(path.read_text()) for path in (out / "parts").glob("*.json")}
    assert records["shards_pictures"]["samples"] >= 20
    assert records["shards_chair"]["samples"] == demo.COPIES
    assert not (out / "teacher").exists()
    assert records["evaluate"].keys() - {"seconds", "resumed"} == set(demo.REAL_STORY.models)
    report = (out / "report.html").read_text()
    assert "the whole job on real pictures" in report
    assert "the student has seen this chair" in report

    with pytest.raises(ValueError, match=r"holds a demo with data=real, and this one has data=toy; .*--fresh"):
        demo.main(["data=toy", "--out", str(out), "--scale", "smoke"])
    (tmp_path / "package" / "lite.pt").write_bytes(b"another tracker")
    with pytest.raises(ValueError, match="holds a demo with teacher="):
        demo.main(["data=real", "--out", str(out), "--scale", "smoke"])


def test_what_is_held_out_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo.RealDemo(tmp_path, "demo")
    (clip,) = real.held_out
    monkeypatch.setattr(demo.Demo, "shards", lambda self, *words: {})
    real.chair()
    seen = sorted((tmp_path / "chair" / "JPEGImages" / "chair-0").iterdir())
    assert (len(seen), seen[-1].name) == (demo.SEEN, f"{demo.SEEN - 1:05d}.jpg")
    assert demo.HELD_OUT >= demo.SEEN
    frames = et.example_clip().frames
    assert (clip.frames.read(0) == frames[demo.HELD_OUT]).all()
    assert clip.num_frames == len(frames) - demo.HELD_OUT == 24


def test_without_the_shipped_tracker_the_demo_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped_stub.take_away(tmp_path, monkeypatch)
    monkeypatch.setattr(demo, "run", lambda chosen: {"data": chosen.data, "out": str(chosen.out)})
    assert demo.main([]) == 0
    said = capsys.readouterr().out
    assert "holds no shipped tracker that could teach" in said
    assert '"data": "toy"' in said
    with pytest.raises(ValueError, match=r"lite\.pt is missing; use data=toy"):
        demo.main(["data=real"])
    (tmp_path / "lite.pt").touch()
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "lite.pt")
    assert demo.main([]) == 0
    assert '"data": "real"' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        demo.main(["data=reel"])
    assert "data=reel is not known here; use data=real or data=toy" in capsys.readouterr().err


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo or smoke"):
        demo.main(["data=toy", "--out", str(tmp_path), "--scale", "huge"])
