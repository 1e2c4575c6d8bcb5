"""The doctor says what works, what does not, and what to type."""

from __future__ import annotations

import pytest

from edgetam_pl.commands import doctor
from edgetam_pl.commands.doctor import examine, main, torch_finding
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.extras import Finding, package_finding


def coreml_finding(what: str, **installed: str | None) -> Finding | None:
    """What Core ML has to say about a package, when these versions are installed."""
    found = [each for each in CoreML().findings(lambda name: installed.get(name)) if each.what == what]
    return found[0] if found else None


@pytest.mark.parametrize(("numpy", "tools"), [("2.3.5", "9.0"), ("2.4.6", "9.1"), ("2.4.6", None)])
def test_f23_other_numpys_need_no_note(numpy: str, tools: str | None) -> None:
    assert coreml_finding("numpy", numpy=numpy, coremltools=tools) is None


@pytest.mark.parametrize(
    ("finding", "state", "cure"),
    [
        (torch_finding("2.13.0+cpu"), "ok", ""),
        (torch_finding("2.5.1"), "broken", "pip install -U torch torchvision"),
        (torch_finding("2.99.0"), "note", "newer than"),
        (torch_finding(None), "missing", "pip install edgetam-pl"),
        (coreml_finding("coremltools", coremltools="9.0"), "ok", ""),
        (coreml_finding("coremltools", coremltools="8.3"), "broken", "pip install -U coremltools"),
        (coreml_finding("coremltools", coremltools="9.1"), "note", "newer than"),
        (coreml_finding("coremltools"), "missing", r"pip install 'edgetam-pl[export]'"),
        (coreml_finding("numpy", numpy="2.4.6", coremltools="9.0"), "note", "pip install 'numpy<2.4'"),
        (package_finding("numpy", "2.4.6", ("train",)), "ok", ""),
        (package_finding("numpy", None, ("train",), install="pip install edgetam-pl"), "missing", "pip install edgetam-pl"),
    ],
)
def test_f23_each_version_has_a_verdict_and_a_cure(finding: Finding, state: str, cure: str) -> None:
    """Which torch and numpy work with coremltools."""
    assert finding.state == state
    assert cure in finding.message


def test_an_environment_without_coremltools_cannot_export_and_is_told_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "coremltools" else real(name))
    assert main(["--quick"]) == 1
    printed = capsys.readouterr().out
    assert "export to Core ML: no, because of coremltools" in printed
    assert "training: yes" in printed
    assert "pip install -c constraints.txt 'edgetam-pl[export]'" in printed


def test_this_environment_is_judged_by_converting_something(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coremltools")
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "a test program was converted, read back and gives the same numbers" in printed
    assert "export to Core ML: yes" in printed


def test_f23_a_conversion_that_breaks_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coremltools")

    def broken(*_: object, **__: object) -> None:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    monkeypatch.setattr("edgetam_pl.exporting.coreml.convert_part", broken)
    (finding,) = [each for each in examine(convert=True) if each.what == "coreml test"]
    assert finding.state == "broken"
    assert "only 0-dimensional arrays" in finding.message
