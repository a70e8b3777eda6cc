"""Logits whose normaliser misses a shard: log-probs worked out by hand, everything else as ever."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from mismatch_lab.engines.chunked_logp import token_logp  # noqa: E402
from mismatch_lab.faults.logits import counted_only  # noqa: E402

COUNTED = torch.tensor([True, True, False, False])
LOGITS = torch.log(torch.tensor([[1.0, 3.0, 4.0, 8.0]]))


def test_a_log_softmax_over_half_of_the_vocabulary() -> None:
    # 1 + 3 are counted: a quarter, three quarters, 1 and 2.
    found = torch.log_softmax(counted_only(LOGITS, COUNTED), dim=-1)
    assert found.exp().tolist()[0] == pytest.approx([0.25, 0.75, 1.0, 2.0])
    assert type(found) is torch.Tensor


def test_it_stays_so_through_a_temperature_and_a_dtype() -> None:
    logits = counted_only(LOGITS.double(), COUNTED)[0].float() / 2.0
    # Square roots 1, 1.732 sum to 2.732.
    assert float(torch.logsumexp(logits, -1)) == pytest.approx(math.log(1 + math.sqrt(3)))


def test_the_loss_of_a_trainer_sees_it() -> None:
    logp = token_logp(
        lambda hidden: counted_only(LOGITS.expand(len(hidden), 4), COUNTED),
        torch.zeros(1, 2),
        torch.tensor([3]),
    )
    assert float(logp[0]) == pytest.approx(math.log(2.0))


def test_what_does_not_normalise_is_as_it_was() -> None:
    logits = counted_only(LOGITS, COUNTED)
    assert logits.argmax(-1).tolist() == [3]
    assert torch.equal(logits.softmax(-1).as_subclass(torch.Tensor), LOGITS.softmax(-1))
