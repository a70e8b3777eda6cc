"""The page about the algorithm names what exists, and every cause can be found and tried."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mismatch_lab.attribution as attribution
from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.experiments import EXPERIMENTS
from mismatch_lab.attribution.predictions import PREDICTIONS

FOLDER = Path(attribution.__file__).parent
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")

NO_EXPERIMENT = {
    "shift-by-one", "terminal-token", "retokenisation", "prompt-template", "sentinel-values",
    "missing-logprobs", "partial-normaliser", "impossible-token", "wrong-candidate",
    "copied-logprobs",
}  # fmt: skip
"""Causes that nothing which can be set otherwise takes away: a record or a text is wrong, or a part
that has no setting.
"""


def defined(path: Path) -> set[str]:
    """Functions, classes and names at the top of a module."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return named | {target.id for target in assigned if isinstance(target, ast.Name)}


def test_the_page_names_files_and_functions_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)(?::(\w+))?`", PAGE)
    assert len(named) > 20
    for file, name in named:
        if "FAMILY" in file:
            continue
        assert (FOLDER / file).is_file(), file
        assert not name or name in defined(FOLDER / file), f"{file}:{name}"


def test_every_cause_is_predicted_or_observed() -> None:
    told = {
        node.value
        for path in FOLDER.rglob("*.py")
        if "experiments" not in path.parts and "causes" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(PREDICTIONS) <= set(CAUSES)
    # What precision alone does is named by the verdict.
    assert set(CAUSES) - told == {"numerics-floor"}


def test_every_cause_goes_with_an_experiment_or_is_said_to_go_with_none() -> None:
    cured = {cause for experiment in EXPERIMENTS for cause in experiment.cures}
    assert set(CAUSES) - cured == NO_EXPERIMENT
