"""The doctor says what works, what does not, and what to type."""

from __future__ import annotations

import pytest

from edgetam_pl.commands import doctor
from edgetam_pl.commands.doctor import Finding, coremltools_finding, examine, main, numpy_finding, torch_finding


@pytest.mark.parametrize(
    ("finding", "state", "cure"),
    [
        (torch_finding("2.13.0+cpu"), "ok", ""),
        (torch_finding("2.5.1"), "broken", "pip install -U torch torchvision"),
        (torch_finding("2.99.0"), "note", "newer than"),
        (torch_finding(None), "missing", "pip install edgetam-pl"),
        (coremltools_finding("9.0"), "ok", ""),
        (coremltools_finding("8.3"), "broken", "pip install -U coremltools"),
        (coremltools_finding(None), "missing", r"pip install 'edgetam-pl[export]'"),
        (numpy_finding("2.3.5", "9.0"), "ok", ""),
        (numpy_finding("2.4.6", "9.0"), "note", "pip install 'numpy<2.4'"),
        (numpy_finding("2.4.6", "9.1"), "ok", ""),
        (numpy_finding("2.4.6", None), "ok", ""),
        (numpy_finding(None, None), "missing", "pip install edgetam-pl"),
    ],
)
def test_f23_each_version_has_a_verdict_and_a_cure(finding: Finding, state: str, cure: str) -> None:
    """Which torch and numpy work with coremltools."""
    assert finding.state == state
    assert cure in finding.told


def test_an_environment_without_coremltools_cannot_export_and_is_told_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "coremltools" else real(name))
    assert main(["--quick"]) == 1
    told = capsys.readouterr().out
    assert "export to Core ML: no, because of coremltools" in told
    assert "training: yes" in told
    assert "pip install -c constraints.txt 'edgetam-pl[export]'" in told


def test_this_environment_is_judged_by_converting_something(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coremltools")
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "a test program was converted, read back and gives the same numbers" in told
    assert "export to Core ML: yes" in told


def test_f23_a_conversion_that_breaks_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coremltools")

    def broken(*_: object, **__: object) -> None:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    monkeypatch.setattr("edgetam_pl.export.coreml.convert_part", broken)
    (finding,) = [each for each in examine(convert=True) if each.what == "conversion"]
    assert finding.state == "broken"
    assert "only 0-dimensional arrays" in finding.told
