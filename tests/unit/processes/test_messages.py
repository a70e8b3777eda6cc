"""What is sent is what comes out, or is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab import errors
from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.processes.messages import ANSWERS, ArrayAsJson, Failed, Messages
from mismatch_lab.trainer.rollout import REQUESTS, EngineSpec, Record, Sample, SamplingParams


@dataclass(frozen=True)
class Kept:
    """A message with an array."""

    support: Annotated[NDArray[np.bool_], ArrayAsJson()] | None = None


def test_an_array_keeps_its_type_shape_and_bits() -> None:
    messages = Messages(Kept)
    support = np.arange(6).reshape(2, 3)[:, ::2] > 1  # no contiguous one
    found = messages.read(json.loads(json.dumps(messages.plain(Kept(support)))))
    assert found.support.dtype == np.bool_
    np.testing.assert_array_equal(found.support, [[False, True], [True, True]])
    assert messages.read(messages.plain(Kept())) == Kept()


def test_what_an_engine_is_asked_comes_out_as_it_was() -> None:
    spec = EngineSpec(
        "model", "bfloat16", 8, "raw", {"a": True, "b": 1, "c": 1.0, "d": "1"}, ("sinks", "plain")
    )
    sampling = SamplingParams(0.5, seed=3, record=Record(routing=True))
    for message in (spec, Sample([[1, 2]], [4], sampling), "0.32", True):
        found = REQUESTS.read(json.loads(json.dumps(REQUESTS.plain(message))))
        assert found == message
        assert type(found) is type(message)
    args = REQUESTS.read(REQUESTS.plain(spec)).args
    assert [type(value) for value in args.values()] == [bool, int, float, str]


@pytest.mark.parametrize(
    "plain",
    [
        None, {}, [], ["Sample"], ["close", {}], ["getattr", {}], [1, {}], ["Flush", {}, {}],
        ["Score", {"rows": "all", "temperature": 1.0}], ["Score", {"rows": []}],
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(plain: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        REQUESTS.read(plain)


@pytest.mark.parametrize("kind", MismatchLabError.__subclasses__())
def test_an_error_is_carried_as_what_it_was(kind: type[MismatchLabError]) -> None:
    messages = Messages()
    failed = messages.read(messages.plain(Failed.of(kind("lost", "look"))))
    told = failed.error(Path("side.log"))
    assert (type(told), told.problem) == (kind, "lost")
    assert told.hint == ("look" if kind in ANSWERS else "look\nLog: side.log")


def test_an_error_of_no_known_kind_is_the_engines() -> None:
    assert type(Failed("few", "lost").error()) is errors.EngineError  # `errors.few` is no error
    said = Failed.of(InputError("no rows")).error(said_by="http://a: ")
    assert (type(said), str(said)) == (InputError, "http://a: no rows")
