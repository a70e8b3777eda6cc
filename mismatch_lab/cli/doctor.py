"""`doctor`: what is installed here, and what would run."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from mismatch_lab.engines.http.address import KEY
from mismatch_lab.engines.interpreters import OWN, own_python
from mismatch_lab.engines.provenance import gather
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.probes.suites import load_probe, probe_names

NEEDS = {
    "vllm": ("vllm", "pip install 'mismatch-lab[vllm]' on a CUDA machine; on a CPU see README"),
    "fsdp": ("torch", "pip install 'mismatch-lab[train]'"),
    "hf": ("transformers", "pip install 'mismatch-lab[train]'"),
    "definition": ("torch", "pip install 'mismatch-lab[train]'"),
    "http": ("httpx", "pip install 'mismatch-lab[train]'"),
    "function": ("numpy", ""),
    "trl": ("trl", "pip install 'mismatch-lab[trl]'"),
    "fake": ("numpy", ""),
}
"""engine -> (module it needs, how to get it)"""


def print_report() -> None:
    """Print what was found; nothing is imported that takes long."""
    console = Console(highlight=False, markup=False)
    facts = gather([])
    console.print(f"host      {facts.host}: {facts.cpu}, {facts.cpu_count} cores")
    console.print(f"gpus      {', '.join(facts.accelerators) or 'none seen (nvidia-smi)'}")
    console.print(f"memory    {_memory_gib():.1f} GiB available")
    console.print(f"disk      {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here")
    for name, found in facts.packages.items():
        console.print(f"package   {name} {found}")
    for engine, (module, how) in NEEDS.items():
        ready = "ready" if find_spec(module) is not None else f"not installed; {how}"
        console.print(f"engine    {engine}: {ready}", soft_wrap=True)
    for engine in OWN:
        console.print(f"engine    {engine}: {_own(engine)}", soft_wrap=True)
    key = "is set" if os.environ.get(KEY) else "is not set; servers that want a key need it"
    console.print(f"servers   {KEY} {key}")
    for label, check in (("model", checkpoint_dir), ("probes", _check_probes)):
        try:
            console.print(f"{label:<9} {check()}", soft_wrap=True)
        except MismatchLabError as error:
            console.print(f"{label:<9} {error.problem}")


def _own(engine: str) -> str:
    """In this interpreter, or in one of its own."""
    if find_spec(engine) is not None:
        return "ready"
    python = own_python(engine)
    if python is None:
        return f"not installed; {OWN[engine].how}"
    if not Path(python).is_file():
        return f"{OWN[engine].variable} names {python}, which is not there"
    return f"ready in {python}"


def _check_probes() -> str:
    return ", ".join(load_probe(name).name for name in probe_names())


def _memory_gib() -> float:
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**20
    return float("nan")
