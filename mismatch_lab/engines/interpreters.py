"""The interpreter of a side that needs one of its own, found where the user names none."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mismatch_lab.errors import MissingDependencyError


@dataclass(frozen=True)
class Own:
    """A program that pins other versions than the rest: an environment of its own."""

    program: str
    variable: str
    """Environment variable that names an interpreter with it."""
    venv: str
    """Folder that its `make` target makes, beside `.venv`."""
    how: str


OWN = {
    "sglang": Own(
        "SGLang",
        "MISMATCH_LAB_SGLANG_PYTHON",
        ".venv-sglang",
        "On a CPU: make sglang (an environment of its own, found by itself); on a GPU: pip install "
        "'mismatch-lab[sglang]' in an environment of its own, and name its interpreter with "
        "--engine-python.",
    ),
    "verl": Own(
        "verl",
        "MISMATCH_LAB_VERL_PYTHON",
        ".venv-verl",
        "On a CPU: make verl (an environment of its own, found by itself); elsewhere name the "
        "interpreter of your verl with --trainer-python.",
    ),
}
"""engine -> its environment; the module that it needs has the engine's name."""


def interpreter(engine: str, named: str | None) -> str | None:
    """The interpreter to run an engine in; None is this one.

    Raises:
        MissingDependencyError: the engine is nowhere to be found.
    """
    if engine not in OWN or named is not None:
        return named
    if find_spec(engine) is not None:
        return None
    found = own_python(engine)
    if found is None:
        own = OWN[engine]
        raise MissingDependencyError(
            f"{own.program} is not installed here, nor in an environment beside.", own.how
        )
    return found


def own_python(engine: str) -> str | None:
    """What the environment variable names, else what `make` made; None where neither is.

    An environment counts when it is whole: its last stamp is there.
    """
    own = OWN[engine]
    named = os.environ.get(own.variable)
    if named:
        return named
    beside = Path(sys.prefix).parent / own.venv
    for folder in (beside, Path.cwd() / own.venv):
        python = folder / "bin" / "python"
        if python.exists() and (folder / ".installed").exists():
            return str(python)
    return None
