"""How rows are laid out changes nothing, unless they see each other. A random Llama, two layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.engines.assemble import RowRecord
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.torch_model import BodyAndHead
from mismatch_lab.engines.torch_score import TorchScorer
from mismatch_lab.schema import CapturePlan, Packing

Tiny = Callable[[str], nn.Module]
TOKENS = np.random.default_rng(3).integers(2, 40, 17).tolist()
# Rows of 7, 4 and 6 tokens.
SEQUENCES = [TOKENS[:7], TOKENS[7:11], TOKENS[11:]]
ROWS = Rows.build(
    SEQUENCES, [2, 2, 2], [[False, False] + [True] * (len(s) - 2) for s in SEQUENCES]
)  # fmt: skip
PLAN = CapturePlan(probe_positions=4, tap_rows=1)
ALL = [0, 1, 2]


@pytest.fixture
def parts(tiny: Tiny) -> BodyAndHead:
    return BodyAndHead(tiny("plain_llama"))


def records(
    parts: BodyAndHead, request: ScoreRequest, packing: Packing = "none", micro_batch: int = 3
) -> dict[int, RowRecord]:
    scorer = TorchScorer(parts, 1, torch.device("cpu"), packing)
    return scorer.score(ROWS, ALL, request, micro_batch, lambda done, total: None)


def logp(found: dict[int, RowRecord]) -> Float32:
    return np.concatenate([found[row].logp for row in ALL])


def furthest(a: Float32, b: Float32) -> float:
    """Of two sides' log-probs, in nats; both have none for the first token of a row."""
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    return float(np.nanmax(np.abs(a - b)))


def test_one_by_one_padded_or_packed_they_say_the_same(parts: BodyAndHead) -> None:
    alone = logp(records(parts, ScoreRequest(), micro_batch=1))
    assert np.flatnonzero(np.isnan(alone)).tolist() == [0, 7, 11]
    assert furthest(alone, logp(records(parts, ScoreRequest()))) < 1e-5
    assert furthest(alone, logp(records(parts, ScoreRequest(), "documents"))) < 1e-5


@pytest.mark.parametrize("packing", ["leaky", "leaky_restarted"])
def test_where_rows_see_each_other_only_the_first_is_as_it_was(
    parts: BodyAndHead, packing: Packing
) -> None:
    alone = logp(records(parts, ScoreRequest()))
    leaky = logp(records(parts, ScoreRequest(), packing))
    assert furthest(alone[:7], leaky[:7]) < 1e-5
    for row in (slice(8, 11), slice(12, 17)):
        assert (np.abs(alone[row] - leaky[row]) > 1e-3).all()


def test_a_request_overrides_the_engines_own_packing(parts: BodyAndHead) -> None:
    leaky = logp(records(parts, ScoreRequest(), "leaky"))
    asked = logp(records(parts, ScoreRequest(packing="leaky")))
    np.testing.assert_array_equal(leaky, asked)
    padded = logp(records(parts, ScoreRequest(packing="none"), "leaky"))
    np.testing.assert_array_equal(padded, logp(records(parts, ScoreRequest())))


def test_the_normaliser_is_recorded_with_the_distribution(parts: BodyAndHead) -> None:
    request = ScoreRequest(temperature=0.5, probe_positions=np.array([3, 9]))
    found = records(parts, request)
    probe, lse = found[0].probe_logp, found[0].probe_lse
    assert probe is not None
    assert lse is not None
    hidden = parts.hidden(torch.tensor(SEQUENCES[:1]), None)
    logits = parts.head(hidden[0, 2:3]).numpy()
    np.testing.assert_allclose((probe + lse[:, None]) * 0.5, logits, rtol=1e-4, atol=1e-5)
    assert found[2].probe_lse is None or len(found[2].probe_lse) == 0


def test_a_row_that_is_to_stand_alone_does_as_a_tapped_one(parts: BodyAndHead) -> None:
    """Or else a kernel that depends on the batch looks like one that is random."""
    batches: list[int] = []
    parts.model.register_forward_pre_hook(
        lambda _module, _args, given: batches.append(len(given["input_ids"])), with_kwargs=True
    )
    for request in (ScoreRequest(tap_rows=(0,)), ScoreRequest(alone_rows=(0,))):
        batches.clear()
        records(parts, request)
        # Heads are forwards of their own, of one sequence.
        assert sorted(n for n in batches if n > 1) == [2], request
    batches.clear()
    records(parts, ScoreRequest())
    assert 3 in batches


def test_packs_are_put_together_in_their_order_and_said(parts: BodyAndHead) -> None:
    """Row 2 stands before row 0, which sees it; row 1 is by itself, whatever the micro-batch."""
    alone = logp(records(parts, ScoreRequest()))
    found = records(parts, ScoreRequest(packing="leaky", packs=((2, 0),)))
    packed = logp(found)
    assert furthest(alone[7:], packed[7:]) < 1e-5
    assert (np.abs(alone[1:7] - packed[1:7]) > 1e-3).all()
    assert [found[row].pack for row in ALL] == [(2, 1), (1, 0), (2, 0)]
    assert records(parts, ScoreRequest())[0].pack is None


def test_a_packing_engine_says_who_lay_with_whom(parts: BodyAndHead) -> None:
    found = records(parts, ScoreRequest(), "documents", micro_batch=2)
    assert [found[row].pack for row in ALL] == [(0, 0), (0, 1), (2, 0)]
    tapped = records(parts, ScoreRequest(alone_rows=(1,)), "documents", micro_batch=2)
    assert [tapped[row].pack for row in ALL] == [(0, 0), (1, 0), (0, 1)]
