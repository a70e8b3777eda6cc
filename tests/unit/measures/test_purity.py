"""Measures import numpy and the standard library only, so that they run live in any trainer."""

import subprocess
import sys


def test_measures_import_numpy_only() -> None:
    code = (
        "import sys, pkgutil, importlib, numpy\n"
        "before = set(sys.modules)\n"
        "import mismatch_lab.measures as m\n"
        "for info in pkgutil.iter_modules(m.__path__):\n"
        "    importlib.import_module(f'{m.__name__}.{info.name}')\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(tops - set(sys.stdlib_module_names) - {'mismatch_lab', 'numpy'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
