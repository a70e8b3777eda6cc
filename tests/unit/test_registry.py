"""Names that are imported when they are asked for."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from mismatch_lab.engines.base import ENGINE_ABOUT, ENGINE_EXTRAS, ENGINES
from mismatch_lab.errors import (
    AlignmentError,
    CaptureError,
    EngineError,
    InputError,
    MismatchLabError,
    MissingDependencyError,
)
from mismatch_lab.registry import resolve

TABLE = {"ordered": "collections:OrderedDict", "broken": "no_such_package.module:Thing"}


def test_a_name_is_imported() -> None:
    assert resolve("thing", "ordered", TABLE) is OrderedDict


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError) as caught:
        resolve("thing", "orderd", TABLE)
    assert caught.value.problem == "Unknown thing 'orderd'."
    assert "broken, ordered" in caught.value.hint


def test_one_broken_entry_does_not_hurt_the_others() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        resolve("thing", "broken", TABLE)
    assert resolve("thing", "ordered", TABLE) is OrderedDict


def test_every_engine_is_explained_and_knows_its_extra() -> None:
    assert ENGINES.keys() == ENGINE_ABOUT.keys()
    own = {"verl"}  # needs an environment of its own, which `make verl` makes
    assert ENGINE_EXTRAS.keys() == ENGINES.keys() - {"fake", "function"} - own
    assert resolve("engine", "fake", ENGINES).__name__ == "FakeEngine"


def test_an_error_shows_its_hint_on_a_line_of_its_own() -> None:
    assert str(InputError("It is wrong.", "Mend it.")) == "It is wrong.\nMend it."
    assert str(InputError("It is wrong.")) == "It is wrong."


@pytest.mark.parametrize(
    "kind", [InputError, MissingDependencyError, EngineError, CaptureError, AlignmentError]
)
def test_every_error_is_one_the_command_line_knows(kind: type[MismatchLabError]) -> None:
    error = kind("problem", "hint")
    assert isinstance(error, MismatchLabError)
    assert (error.problem, error.hint) == ("problem", "hint")
