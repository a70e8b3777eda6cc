"""A plugin that cannot be used says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab.engines.plugin import apply_plugin, check_plugin, load_plugin
from mismatch_lab.errors import InputError

SOURCE = """
SCALE = 2

def double(model):
    model["weight"] *= SCALE

def fail(model):
    return model["bias"]

def another(model):
    return {"weight": 7}

def same(model):
    return model

def count(model):
    return 3
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "patch.py"
    path.write_text(SOURCE)
    return path


def test_it_is_called_with_the_model(plugin: Path) -> None:
    model = {"weight": 3}
    apply_plugin(f"{plugin}:double", model)
    assert model == {"weight": 6}


def test_what_it_returns_is_taken_where_the_engine_can_run_it(plugin: Path) -> None:
    model = {"weight": 3}
    assert apply_plugin(f"{plugin}:double", model, dict) is model
    assert apply_plugin(f"{plugin}:same", model) is model
    assert apply_plugin(f"{plugin}:another", model, dict) == {"weight": 7}
    with pytest.raises(
        InputError, match=r"patch\.py:another returned a dict, and this engine goes"
    ):
        apply_plugin(f"{plugin}:another", model)
    for kind in (dict, None):
        with pytest.raises(InputError, match=r"patch\.py:count returned a int, (which|and)"):
            apply_plugin(f"{plugin}:count", model, kind)


@pytest.mark.parametrize("reference", ["patch.py", "patch:double", "patch.py:", ":double", ""])
def test_another_form_is_refused(reference: str) -> None:
    with pytest.raises(InputError, match=r"not of the form FILE\.py:FUNC"):
        load_plugin(reference)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.py does not exist"):
        load_plugin(f"{tmp_path}/no.py:double")


@pytest.mark.parametrize("name", ["triple", "SCALE"])
def test_a_missing_function_is_named(plugin: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"has no function '{name}'"):
        load_plugin(f"{plugin}:{name}")


def test_a_file_that_does_not_import_says_why(tmp_path: Path) -> None:
    source = "import a_module_that_is_not_there\ndef f(model):\n    pass\n"
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(InputError, match=r"broken\.py fails to import: ModuleNotFoundError"):
        load_plugin(f"{tmp_path}/broken.py:f")


def test_a_file_that_is_not_python_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:")
    with pytest.raises(InputError, match=r"broken\.py is not Python"):
        check_plugin(f"{tmp_path}/broken.py:f")


@pytest.mark.parametrize("line", ["from math import sqrt as f", "f = print", "class f: ..."])
def test_a_function_may_come_from_anywhere(tmp_path: Path, line: str) -> None:
    (tmp_path / "patch.py").write_text(line)
    assert check_plugin(f"{tmp_path}/patch.py:f") == (tmp_path / "patch.py", "f")


def test_what_it_raises_is_shown(plugin: Path) -> None:
    with pytest.raises(InputError, match=r"patch\.py:fail raised KeyError: 'bias'") as caught:
        apply_plugin(f"{plugin}:fail", {})
    assert isinstance(caught.value.__cause__, KeyError)
