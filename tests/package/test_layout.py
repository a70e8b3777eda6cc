"""What the folders hold, and that every module can be imported."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["probes", "reports"])
def test_data_folders_hold_files_but_no_python(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.suffix in {".py", ".pyc", ".ipynb"}] == []


def test_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().splitlines()[0] == "#!/usr/bin/env bash"


@pytest.mark.slow
@pytest.mark.vllm
def test_every_module_can_be_imported_where_everything_is_installed() -> None:
    modules = [m.name for m in pkgutil.walk_packages([str(ROOT / "mismatch_lab")], "mismatch_lab.")]
    assert "mismatch_lab.errors" in modules
    # In a process of its own: what these modules import must not leak into other tests.
    lines = "\n".join(f"import {name}" for name in modules if not name.endswith("__main__"))
    result = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
