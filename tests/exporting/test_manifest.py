"""The manifest is written whole, read back equal, and refused when it is not ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from runtime_specs import loop

from edgetam_pl.exporting.backends import backend_of
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.documents import readme
from edgetam_pl.exporting.estimate import PAPER
from edgetam_pl.exporting.manifest import (
    FILE,
    FORMAT,
    RULES,
    FeatureEntry,
    Manifest,
    PartEntry,
    read,
    write,
)
from edgetam_pl.io.hashing import bytes_of, sha256_of


def page_of(page: Manifest) -> str:
    return readme(page, backend_of(page.backend).usage(page))


def manifest() -> Manifest:
    feature = FeatureEntry("image", (1, 3, 64, 64), "image", "RGB")
    entry = PartEntry("XImageEncoder", "image_encoder", "X.mlpackage", None, "all", 10, "ab", (feature,), (feature,))
    return Manifest(
        format=FORMAT, name="X", backend="coreml", precision="fp16", system="ios17", attention="decomposed",
        compression="none", loop=loop(), parts=(entry,), rules=RULES, model={"name": "toy"}, checkpoint="last.ckpt",
        checkpoint_sha256="cd", versions={"edgetam_pl": "1"}, thresholds={}, parity={"a": {"value": 1.0}},
    )  # fmt: skip


def test_a_manifest_comes_back_equal(tmp_path: Path) -> None:
    write(manifest(), tmp_path)
    assert read(tmp_path) == manifest()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/2"}, "has the format 'other/2'; this version reads 'edgetam-pl/export/1'"),
        ({"colour": "blue"}, r"unknown entries \['colour'\]"),
        ({"loop": {"size": 3}}, "RuntimeSpec is incomplete"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(manifest(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_truncated_manifest_is_refused(tmp_path: Path) -> None:
    path = write(manifest(), tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="not readable as JSON"):
        read(tmp_path)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ValueError, match=r"no part 'track_step'; it has \['image_encoder'\]"):
        manifest().part("track_step")


def test_the_hash_of_a_package_ignores_the_random_names_in_its_own_manifest(tmp_path: Path) -> None:
    for name, noise in (("a", "1"), ("b", "2")):
        (tmp_path / name / "Data").mkdir(parents=True)
        (tmp_path / name / "Manifest.json").write_text(noise)
        (tmp_path / name / "Data" / "weight.bin").write_bytes(b"weights")
    (volatile,) = CoreML.volatile
    assert sha256_of(tmp_path / "a", ignore=[volatile]) == sha256_of(tmp_path / "b", ignore=[volatile])
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")
    (tmp_path / "b" / "Data" / "weight.bin").write_bytes(b"Weights")
    assert sha256_of(tmp_path / "a", ignore=[volatile]) != sha256_of(tmp_path / "b", ignore=[volatile])
    assert bytes_of(tmp_path / "a") == 8


def test_the_readme_tells_the_whole_loop() -> None:
    page = page_of(manifest())
    for word in (*RULES.values(), "```swift", "Not run on Apple hardware", "validate_on_mac.py", "Performance", "`image`"):
        assert word in page
    assert "last.ckpt" in page


def test_an_onnx_readme_has_no_swift() -> None:
    page = page_of(dataclasses.replace(manifest(), backend="onnx", system=""))
    assert "swift" not in page.lower().replace("elsewhere than in swift", "")
    assert "ONNX runtime" in page


ROLES = ("image_encoder", "prompt_decoder", "memory_encoder", "track_step")


@pytest.mark.parametrize(
    ("backend", "languages"),
    [("coreml", ("swift",)), ("coreai", ("swift",)), ("executorch", ("kotlin", "swift")), ("litert", ("kotlin", "swift"))],
)
def test_the_page_for_app_developers_has_calls_costs_sketches_and_tests(backend: str, languages: tuple[str, ...]) -> None:
    image = FeatureEntry("image", (1, 3, 64, 64), "image", "RGB")
    parts = tuple(PartEntry(role, role, f"{role}.x", role, "all", 2_000_000, "ab", (image,), (image,)) for role in ROLES)
    cost = {"part": "track_step", "megabytes": 2.0, "io_megabytes": 0.5, "gmacs": 40.0}
    gmacs = {"image_encoder": 30.1, "each_object": 40.0, "one_object": 70.1}
    estimate = {"parts": [cost], "frame_gmacs": gmacs, "bank_kilobytes_per_object": 467.0, "paper": PAPER}
    page = page_of(dataclasses.replace(manifest(), backend=backend, parts=parts, estimate=estimate))
    assert "## A frame, call by call" in page
    assert "at least the files, 8.0 MB" in page
    assert "would take 63.7 ms" in page  # the paper's own model at the paper's own rate: 1000 / 15.7
    assert "## Test it on the device" in page
    assert all(f"```{language}\n" in page for language in languages)
    assert "var memories = [Entry?](repeating: nil, count: 7)" in page
    assert ("Xcode: open a package" in page) == (backend == "coreml")
