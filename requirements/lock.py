"""Write `requirements/cpu.lock`: every package of the CPU environment, pinned and hashed.

Run as `make lock`, or `python requirements/lock.py [--upgrade | --upgrade-package NAME]`. Pins that
still fit are kept unless an upgrade is asked for. Needs Python 3.11 and a package index; the
resolver (uv) is installed in a temporary environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

UV = "uv==0.13.9"
FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent


def compile_command(uv: Path, options: list[str]) -> list[str]:
    """The resolver's command line, with paths relative to the repository root."""
    inputs = ["pyproject.toml", "requirements/also.in", "--extra", "cpu", "--extra", "dev"]
    target = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31"]
    output = ["--generate-hashes", "--no-emit-index-url", "--output-file", "requirements/cpu.lock"]
    return [
        *(str(uv), "pip", "compile", "--quiet", *inputs, *target, *output),
        *("--overrides", "requirements/left-out.txt", "--custom-compile-command", "make lock"),
        *options,
    ]


def main(options: list[str]) -> int:
    """Resolve and write the lock; returns the resolver's exit status."""
    with tempfile.TemporaryDirectory(prefix="mismatch-lab-lock-") as folder:
        venv.create(folder, with_pip=True)
        binaries = Path(folder) / "bin"
        subprocess.run([binaries / "pip", "install", "--quiet", UV], check=True)
        return subprocess.run(compile_command(binaries / "uv", options), cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
