"""The Makefile's environment: made in the right order, repaired when it was interrupted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for an interpreter: notes each call in calls.txt, makes a "venv" of copies of itself, and
# fails on the call that holds the word in fail-on.txt.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> calls.txt
if [ "$2" = venv ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi
case "$*" in *"$(cat fail-on.txt)"*) exit 1;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, what it depends on, and the fake interpreter."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "fail-on.txt").write_text("nothing")
    return tmp_path


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "calls.txt").write_text("")
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def _calls(folder: Path) -> list[str]:
    """Which steps were taken, by a word that only that step has."""
    words = ("--clear", "cpu.lock", "sglang.lock", "verl.lock", "torch.txt", "--editable")
    lines = (folder / "calls.txt").read_text().splitlines()
    return [word for line in lines for word in words if word in line]


def test_environment_is_made_once_in_order(checkout: Path) -> None:
    python = f"PYTHON={checkout / 'python'}"
    assert _make(checkout, "env", python).returncode == 0
    assert _calls(checkout) == ["--clear", "cpu.lock", "torch.txt", "--editable"]
    assert _make(checkout, "env", python).returncode == 0
    assert _calls(checkout) == []


def test_interrupted_environment_is_made_afresh(checkout: Path) -> None:
    python = f"PYTHON={checkout / 'python'}"
    (checkout / "fail-on.txt").write_text("torch.txt")
    assert _make(checkout, "env", python).returncode == 2
    assert _calls(checkout) == ["--clear", "cpu.lock", "torch.txt"]
    (checkout / "fail-on.txt").write_text("nothing")
    assert _make(checkout, "env", python).returncode == 0
    assert _calls(checkout) == ["--clear", "cpu.lock", "torch.txt", "--editable"]


@pytest.mark.parametrize("name", ["sglang", "verl"])
def test_a_programs_environment_is_one_of_its_own(checkout: Path, name: str) -> None:
    python = f"PYTHON={checkout / 'python'}"
    (checkout / "fail-on.txt").write_text("torch.txt")
    assert _make(checkout, name, python).returncode == 2
    assert not list((checkout / f".venv-{name}").glob(".*ed"))  # half of one passes for none
    (checkout / "fail-on.txt").write_text("nothing")
    assert _make(checkout, name, python).returncode == 0
    assert _calls(checkout) == ["--clear", f"{name}.lock", "torch.txt", "--editable"]
    assert _make(checkout, name, python).returncode == 0
    assert _calls(checkout) == []
    assert not (checkout / ".venv").exists()


def test_changed_pyproject_does_not_remake_the_environment(checkout: Path) -> None:
    python = f"PYTHON={checkout / 'python'}"
    _make(checkout, "env", python)
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    subprocess.run(["touch", "-d", f"@{later}", checkout / "pyproject.toml"], check=True)
    assert _make(checkout, "env", python).returncode == 0
    assert _calls(checkout) == ["--editable"]


def test_old_python_is_refused_in_words(checkout: Path) -> None:
    result = _make(checkout, "env", "PYTHON=false")
    assert result.returncode == 2
    assert "No Python 3.11 or newer with venv among: false" in result.stderr
    assert not (checkout / ".venv").exists()


# Stands for the program: notes its words, makes its folder, and ends as fail-on.txt says.
FAKE_PROGRAM = """#!/bin/sh
echo "$@" > words.txt
while [ "$1" != --out ]; do shift; done
mkdir -p "$2" && echo "$2" > card.txt
grep -q nothing fail-on.txt
"""


@pytest.mark.parametrize(("fail_on", "ended"), [("nothing", 0), ("card", 2)])
def test_the_card_of_ci_fails_as_it_should_and_leaves_nothing(
    checkout: Path, fail_on: str, ended: int
) -> None:
    python = f"PYTHON={checkout / 'python'}"
    assert _make(checkout, "env", python).returncode == 0
    program = checkout / ".venv" / "bin" / "mismatch-lab"
    program.write_text(FAKE_PROGRAM)
    program.chmod(0o755)
    (checkout / "fail-on.txt").write_text(fail_on)
    assert _make(checkout, "scorecard-ci", python).returncode == ended
    assert "scorecard --subset ci --check" in (checkout / "words.txt").read_text()
    assert not Path((checkout / "card.txt").read_text().strip()).exists()


def test_ci_counts_faults_after_the_tests() -> None:
    steps = (ROOT / ".ci" / "run").read_text().splitlines()
    assert steps.index("make test") < steps.index("make scorecard-ci")
