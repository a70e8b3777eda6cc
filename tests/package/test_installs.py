"""The wheel, the editable checkout and a bare install do the same, and stay light."""

from __future__ import annotations

import fnmatch
import json
import resource
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "transformers", "vllm", "sglang", "matplotlib", "ray", "httpx", "pytest"]
HELP_LIMIT_CPU_S = 0.4

pytestmark = pytest.mark.slow

# Runs the command line in-process, then prints which heavy libraries it drew in.
DRAWN_IN = f"""
import contextlib, io, json, sys
from mismatch_lab.cli import main
sys.argv = ["mismatch-lab", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""

# Imports every module; prints {module: name of the library it missed}.
IMPORT_ALL = """
import importlib, json, pkgutil
import mismatch_lab
missed = {}
for module in pkgutil.walk_packages(mismatch_lab.__path__, "mismatch_lab."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missed[module.name] = error.name.split(".")[0]
print(json.dumps(missed))
"""


def test_list_probes_is_the_same_in_all_three(from_wheel: Any, editable: Any, bare: Any) -> None:
    printed = from_wheel.run("mismatch-lab", "list", "probes")
    for name in (path.stem for path in (ROOT / "probes").glob("*.toml")):
        assert name in printed
    assert editable.run("mismatch-lab", "list", "probes") == printed
    assert bare.run("mismatch-lab", "list", "probes") == printed


def test_the_causes_are_the_same_in_all_three(from_wheel: Any, editable: Any, bare: Any) -> None:
    printed = from_wheel.run("mismatch-lab", "list", "causes")
    for path in (ROOT / "mismatch_lab" / "attribution" / "causes").glob("*.toml"):
        assert all(cause in printed for cause in tomllib.loads(path.read_text()))
    assert editable.run("mismatch-lab", "list", "causes") == printed
    assert bare.run("mismatch-lab", "list", "causes") == printed


def test_each_runs_the_code_it_should(from_wheel: Any, editable: Any, bare: Any) -> None:
    where = ("python", "-c", "import mismatch_lab; print(mismatch_lab.__file__)")
    assert Path(editable.run(*where).strip()).is_relative_to(ROOT)
    for environment in (from_wheel, bare):
        assert Path(environment.run(*where).strip()).is_relative_to(environment.folder)


def test_bare_install_has_the_command_and_no_heavy_library(bare: Any) -> None:
    assert "diagnose" in bare.run("mismatch-lab", "--help")
    found = f"from importlib.util import find_spec; print(*(n for n in {HEAVY} if find_spec(n)))"
    assert bare.run("python", "-c", found).split() == ["matplotlib"]


@pytest.mark.parametrize("arguments", [["--help"], ["list", "probes"], ["list", "engines"]])
def test_light_commands_draw_in_nothing_heavy(from_wheel: Any, arguments: list[str]) -> None:
    assert json.loads(from_wheel.run("python", "-c", DRAWN_IN, *arguments)) == []


def test_only_the_backends_need_what_a_bare_install_lacks(bare: Any) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ignores = config["tool"]["ruff"]["lint"]["per-file-ignores"]
    backends = [pattern for pattern, codes in ignores.items() if "TID253" in codes]
    missed = json.loads(bare.run("python", "-c", IMPORT_ALL))
    assert set(missed.values()) <= set(HEAVY)
    for module in missed:
        path = module.replace(".", "/") + ".py"
        is_backend = any(fnmatch.fnmatch(path, pattern) for pattern in backends)
        assert is_backend, f"importing {module} needs {missed[module]}, and it is no backend"


@pytest.mark.benchmark
def test_help_is_instant(from_wheel: Any) -> None:
    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    durations_s = []
    from_wheel.run("mismatch-lab", "--help")  # compiles the modules, once
    for _ in range(7):
        before_s = cpu_s()
        from_wheel.run("mismatch-lab", "--help")
        durations_s.append(cpu_s() - before_s)
    median_s = statistics.median(durations_s)
    print(f"--help: {median_s:.2f} s of CPU, {median_s / HELP_LIMIT_CPU_S:.0%} of its limit")
    assert median_s < HELP_LIMIT_CPU_S
