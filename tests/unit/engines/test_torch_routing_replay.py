"""Routing replay on a real router: forced choices, everything else the model's own."""

from __future__ import annotations

import numpy as np
import pytest

from mismatch_lab.captures.capture import Rows
from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.errors import InputError
from mismatch_lab.schema import SideSpec

ROWS = Rows.build(
    [list(range(40, 52)), list(range(60, 67))], [2, 2],
    [[False] * 2 + [True] * 10, [False] * 2 + [True] * 5],
)  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> HfEngine:
    return HfEngine(
        SideSpec(side="train", engine="hf", model=resolve_model_path(EMBEDDED), dtype="float32")
    )


def scored(engine: HfEngine, choices: np.ndarray | None = None, batch: int = 2):  # type: ignore[no-untyped-def, type-arg]
    request = ScoreRequest(routing=True, routing_replay=choices, micro_batch=batch)
    return engine.score(ROWS, request, lambda done, total: None)


def test_its_own_choices_change_nothing(engine: HfEngine) -> None:
    plain = scored(engine)
    again = scored(engine, plain.router_topk)
    np.testing.assert_array_equal(again.logp, plain.logp)
    np.testing.assert_array_equal(scored(engine).logp, plain.logp)  # and is gone afterwards


@pytest.mark.parametrize("batch", [1, 2])
def test_other_choices_are_followed_from_their_token_on(engine: HfEngine, batch: int) -> None:
    plain = scored(engine, batch=batch)
    assert plain.router_topk is not None
    forced = np.full_like(plain.router_topk, -1)
    token = 12 + 3  # the fourth of the second row
    forced[token, 1] = sorted(set(range(8)) - set(plain.router_topk[token, 1].tolist()))[:2]
    found = scored(engine, forced, batch=batch)
    assert found.router_topk is not None
    assert set(found.router_topk[token, 1]) == set(forced[token, 1])
    assert (found.router_topk[token, 0] == plain.router_topk[token, 0]).all()
    changed = ~np.isclose(found.logp, plain.logp, atol=1e-6, equal_nan=True)
    # What a token's experts do is seen from the next token on, in its own row.
    assert changed[token + 1 :].any()
    assert not changed[: token + 1].any()


def test_routing_of_another_model_is_refused(engine: HfEngine) -> None:
    with pytest.raises(InputError, match="2 layers was recorded, the model has 4"):
        scored(engine, np.zeros((19, 2, 2), np.int16))


def test_nothing_is_left_of_it(engine: HfEngine) -> None:
    before = engine.scorer.routing.routers
    scored(engine, np.full((19, 4, 2), -1, np.int16))
    assert all("forward" not in vars(router) for router in before.values())
