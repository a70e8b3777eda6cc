"""Which files of this package a piece of code can reach, and a digest of them."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mismatch_lab

PACKAGE = "mismatch_lab"
ROOT = Path(mismatch_lab.__file__).resolve().parent
LAZY_NAME = re.compile(rf"{PACKAGE}(\.\w+)+(:\w+)?")
"""As in the tables of `registry`: "mismatch_lab.engines.hf:HfEngine"."""


def sources_digest(start: Path) -> str:
    """A digest of `start` and of every file of this package that it imports, however far."""
    digest = hashlib.sha256()
    for path in sorted(_reachable(start.resolve())):
        inside = path.is_relative_to(ROOT)
        digest.update(str(path.relative_to(ROOT) if inside else "start").encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def foreign_imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, without the standard library's and this one."""
    names = {name.partition(".")[0] for name in _imported(path)}
    return names - set(sys.stdlib_module_names) - {PACKAGE}


def _reachable(start: Path) -> set[Path]:
    found, waiting, names = {start}, [start], set[str]()
    while waiting:
        new = _imported(waiting.pop()) - names
        names |= new
        files = {path for name in new for path in _files_of(name)} - found
        found |= files
        waiting.extend(files)
    return found


def _files_of(name: str) -> Iterator[Path]:
    """The module's file and its packages', or none if the name is not one of this package.

    The last part may be a function of the module before it: then there is no such file.
    """
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return
    for count in range(len(parts)):
        stem = ROOT.joinpath(*parts[1 : count + 1])
        for path in (stem / "__init__.py", stem.with_suffix(".py")):
            if path.is_file():
                yield path


def _imported(path: Path) -> frozenset[str]:
    return _imports_of(path.read_text(encoding="utf-8"))


@cache
def _imports_of(text: str) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ("." if node.level else "") + (node.module or "")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and LAZY_NAME.fullmatch(node.value)
        ):
            names.add(node.value.replace(":", "."))
    return frozenset(names)
