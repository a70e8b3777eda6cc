"""Child of test_refusals: try to load engines that must refuse, and print how each did.

Usage: python try_specs.py FILE, which holds a JSON list of side specs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mismatch_lab.engines.base import ENGINES
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.registry import resolve
from mismatch_lab.schema import SideSpec


def outcome(spec: SideSpec) -> dict[str, str]:
    """The error's class, problem and hint; an engine that loads has none."""
    try:
        resolve("engine", spec.engine, ENGINES)(spec)
    except MismatchLabError as error:
        return {"kind": type(error).__name__, "problem": error.problem, "hint": error.hint}
    except Exception as error:
        return {"kind": f"raw {type(error).__name__}", "problem": str(error), "hint": ""}
    return {"kind": "none", "problem": "it loaded", "hint": ""}


if __name__ == "__main__":
    specs = json.loads(Path(sys.argv[1]).read_text())
    print("OUTCOMES " + json.dumps([outcome(SideSpec.model_validate(spec)) for spec in specs]))
    sys.stdout.flush()
    os._exit(0)  # engines leave threads behind
