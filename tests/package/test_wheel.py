"""What a user gets from `pip install mismatch-lab`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The checkpoint may take 12 MB; code, probes and templates have the rest.
LIMIT_MB = 14


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LIMIT_MB * 1e6


def test_wheel_has_the_licence_the_types_and_the_command(names: set[str], wheel: Path) -> None:
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {"mismatch_lab/py.typed", f"{info}/licenses/LICENSE"} <= names
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "mismatch-lab = mismatch_lab.cli:main" in entry_points


@pytest.mark.parametrize("folder", ["probes", "reports"])
def test_wheel_has_every_data_file_but_the_published_reports(names: set[str], folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    published = ROOT / "reports" / "published"
    shipped = {
        f"mismatch_lab/_data/{path.relative_to(ROOT).as_posix()}"
        for path in files
        if not path.is_relative_to(published)
    }
    assert shipped
    assert {name for name in names if name.startswith(f"mismatch_lab/_data/{folder}/")} == shipped


def test_wheel_has_the_trained_checkpoint(names: set[str]) -> None:
    folder = "mismatch_lab/mini/checkpoint"
    assert {f"{folder}/config.json", f"{folder}/tokenizer.json"} <= names
    assert [name for name in names if name.startswith(folder) and name.endswith(".safetensors")]


def test_wheel_has_nothing_else_at_the_top(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mismatch_lab"}
