"""Plugins: `FILE.py:FUNC`, a user's function that is handed a side's torch module.

It changes the module in place and returns nothing, or returns the module to run instead.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mismatch_lab.errors import InputError

Model = TypeVar("Model")


def check_plugin(reference: str) -> tuple[Path, str]:
    """(file, function name) of `FILE.py:FUNC`, without importing it.

    Raises:
        InputError: not of that form, no such file, not Python, or the name is not in it.
    """
    path_text, colon, function_name = reference.rpartition(":")
    path = Path(path_text)
    if not colon or not function_name or path.suffix != ".py":
        raise InputError(f"Plugin {reference!r} is not of the form FILE.py:FUNC.")
    if not path.is_file():
        raise InputError(f"Plugin file {path} does not exist.")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"Plugin file {path} is not Python: {error}.") from error
    if function_name not in _names(tree):
        raise InputError(f"Plugin file {path} has no function {function_name!r}.")
    return path, function_name


def _names(tree: ast.Module) -> set[str]:
    """Every name the file could define at its top level, however it does so."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


def load_plugin(reference: str) -> Callable[[Any], Any]:
    """The function that `FILE.py:FUNC` names.

    Raises:
        InputError: no such file or function, or the file fails to import.
    """
    path, function_name = check_plugin(reference)
    spec = importlib.util.spec_from_file_location(f"mismatch_lab_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"Plugin file {path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"Plugin file {path} fails to import: {error!r}.") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"Plugin file {path} has no function {function_name!r}.")
    return function  # type: ignore[no-any-return]


def apply_plugin(reference: str, model: Model, kind: type[Model] | None = None) -> Model:
    """Call the plugin on a model; the model to run from now on.

    Args:
        reference: `FILE.py:FUNC`.
        model: it is handed this one.
        kind: what it may return in place of the model; None where the engine keeps the one it has.

    Raises:
        InputError: the plugin raised, or returned what cannot be run in the model's place.
    """
    function = load_plugin(reference)
    try:
        returned = function(model)
    except Exception as error:
        raise InputError(
            f"Plugin {reference} raised {type(error).__name__}: {error}.",
            "It is called with the side's torch.nn.Module; print it to see its submodules.",
        ) from error
    if returned is None or returned is model:
        return model
    if kind is not None and isinstance(returned, kind):
        return returned
    what = f"Plugin {reference} returned a {type(returned).__name__}"
    if kind is None:
        raise InputError(
            f"{what}, and this engine goes on with the module that it loaded.",
            "Change that module in place, and return nothing.",
        )
    raise InputError(f"{what}, which cannot be run.", "Return nothing, or the module to run.")
