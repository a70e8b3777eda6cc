"""Write `cpu.lock`, `sglang.lock` and `verl.lock`: every package of a CPU environment, with hashes.

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
SGLANG = "sglang==0.5.21"
"""Without what it requires: `sglang.in` says what of it a CPU needs."""
FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CPU = ["pyproject.toml", "requirements/also.in", "--extra", "cpu", "--extra", "dev"]


def compile_command(uv: Path, inputs: list[str], glibc: str, output: str) -> list[str]:
    """The resolver's command line, with paths relative to the repository root."""
    target = ["--python-version", "3.11", "--python-platform", f"x86_64-manylinux_{glibc}"]
    return [
        *(str(uv), "pip", "compile", "--quiet", *inputs, *target),
        *("--generate-hashes", "--no-emit-index-url", "--output-file", output),
        *("--overrides", "requirements/left-out.txt", "--custom-compile-command", "make lock"),
    ]


def lock_cpu(uv: Path, options: list[str]) -> None:
    """Resolve the environment of vLLM and the trainer."""
    command = compile_command(uv, CPU, "2_31", "requirements/cpu.lock")
    subprocess.run([*command, *options], cwd=ROOT, check=True)


def lock_sglang(uv: Path, options: list[str], scratch: Path) -> None:
    """Resolve the environment of SGLang: its list of ours, then the package itself."""
    lock = FOLDER / "sglang.lock"
    command = compile_command(uv, ["requirements/sglang.in"], "2_34", "requirements/sglang.lock")
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    (scratch / "sglang.in").write_text(f"{SGLANG}\n", encoding="utf-8")
    itself = compile_command(uv, [str(scratch / "sglang.in")], "2_34", str(scratch / "lock"))
    subprocess.run([*itself, "--no-deps", "--no-header", "--no-annotate"], cwd=ROOT, check=True)
    added = (scratch / "lock").read_text(encoding="utf-8")
    lock.write_text(lock.read_text(encoding="utf-8") + added, encoding="utf-8")


def lock_verl(uv: Path, options: list[str]) -> None:
    """Resolve the environment of verl, with what its list says of packages without a wheel."""
    command = compile_command(uv, ["requirements/verl.in"], "2_31", "requirements/verl.lock")
    subprocess.run([*command, "--emit-build-options", *options], cwd=ROOT, check=True)


def main(options: list[str]) -> int:
    """Resolve and write the locks; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="mismatch-lab-lock-") as folder:
        venv.create(folder, with_pip=True)
        binaries = Path(folder) / "bin"
        subprocess.run([binaries / "pip", "install", "--quiet", UV], check=True)
        try:
            lock_cpu(binaries / "uv", options)
            lock_sglang(binaries / "uv", options, Path(folder))
            lock_verl(binaries / "uv", options)
        except subprocess.CalledProcessError as error:  # uv has said why
            return error.returncode
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
