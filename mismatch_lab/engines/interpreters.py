"""The interpreter of a side that needs one of its own, found where the user names none."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from mismatch_lab.errors import MissingDependencyError

SGLANG_PYTHON = "MISMATCH_LAB_SGLANG_PYTHON"
"""Environment variable that names an interpreter with SGLang."""
SGLANG_VENV = ".venv-sglang"
"""Folder that `make sglang` makes, beside `.venv`."""
HOW = (
    "On a CPU: make sglang (an environment of its own, found by itself); on a GPU: "
    "pip install 'mismatch-lab[sglang]' in an environment of its own, and name its interpreter "
    "with --engine-python."
)


def interpreter(engine: str, named: str | None) -> str | None:
    """The interpreter to run an engine in; None is this one.

    Raises:
        MissingDependencyError: the engine is nowhere to be found.
    """
    if engine != "sglang" or named is not None:
        return named
    if find_spec("sglang") is not None:
        return None
    found = sglang_python()
    if found is None:
        raise MissingDependencyError(
            "SGLang is not installed here, nor in an environment beside.", HOW
        )
    return found


def sglang_python() -> str | None:
    """What the environment variable names, else what `make sglang` made; None where neither is.

    An environment counts when it is whole: its last stamp is there.
    """
    named = os.environ.get(SGLANG_PYTHON)
    if named:
        return named
    beside = Path(sys.prefix).parent / SGLANG_VENV
    for folder in (beside, Path.cwd() / SGLANG_VENV):
        python = folder / "bin" / "python"
        if python.exists() and (folder / ".installed").exists():
            return str(python)
    return None
