"""An engine on a fake server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `fake_server` stands beside the tests

import fake_server as fake

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.http.engine import HttpEngine
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import Prompt, Sampling, SideSpec

PROMPTS = [Prompt(id=str(i), token_ids=[5 + i, 9, 30 + i]) for i in range(4)]
SAMPLING = Sampling(max_tokens=6, seed=3)


@pytest.fixture
def fakes() -> Any:
    """The module of fakes."""
    return fake


@pytest.fixture
def connect() -> Iterator[Callable[..., HttpEngine]]:
    """An engine on one fake server, or on several; all end with the test."""
    with ExitStack() as stack:

        def start(*settings: Any, **args: Any) -> HttpEngine:
            urls = tuple(stack.enter_context(fake.serving(one)) for one in settings)
            spec = SideSpec(
                side="infer", engine="http", model=str(checkpoint_dir()), dtype="float32",
                urls=urls, args=args,
            )  # fmt: skip
            engine = HttpEngine(spec)
            stack.callback(engine.close)
            return engine

        yield start


def quiet(*_: Any) -> None:
    """A progress that is not shown."""


@pytest.fixture
def sample() -> Callable[..., Capture]:
    """Let an engine answer four prompts."""
    return lambda engine, sampling=SAMPLING: engine.generate(PROMPTS, sampling, quiet)


@pytest.fixture
def expected(fakes: Any) -> Callable[..., Any]:
    """[T] what the table says of a capture's tokens; NaN for the first of each row."""

    def of(rows: Any, temperature: float = 1.0) -> Any:
        found = np.full(rows.n_tokens, np.nan)
        for start, stop in rows.spans():
            for at in range(start + 1, stop):
                last, token = (int(rows.token_ids[i]) for i in (at - 1, at))
                found[at] = fakes.distribution(last, temperature)[token]
        return found

    return of
