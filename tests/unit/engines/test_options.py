"""Options are known names with values of the default's type."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mismatch_lab.engines.options import parse_options
from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue


@dataclass(frozen=True)
class Options:
    name: str = "auto"
    count: int = 4
    share: float = 0.5
    eager: bool = False


def test_nothing_given_leaves_the_defaults() -> None:
    assert parse_options(Options, "toy", {}) == Options()


def test_what_is_given_is_taken() -> None:
    given: dict[str, OptionValue] = {"name": "x", "count": 2, "share": 0.1, "eager": True}
    assert parse_options(Options, "toy", given) == Options("x", 2, 0.1, True)


def test_a_whole_number_is_a_fraction_too() -> None:
    share = parse_options(Options, "toy", {"share": 1}).share
    assert share == 1.0
    assert isinstance(share, float)


def test_an_unknown_name_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(InputError, match="Engine toy has no option 'cuont'") as caught:
        parse_options(Options, "toy", {"cuont": 3})
    assert caught.value.hint == "It has: count, eager, name, share."


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 2.5), ("count", "2"), ("count", True), ("eager", 1), ("share", True), ("name", 3)],
)
def test_a_value_of_another_type_is_refused(name: str, value: OptionValue) -> None:
    with pytest.raises(InputError, match=f"Option {name} of engine toy wants"):
        parse_options(Options, "toy", {name: value})
