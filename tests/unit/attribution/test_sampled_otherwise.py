"""Tokens drawn from another distribution than is reported: 40 rows of 30 tokens out of 12."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.attribution.sampled_otherwise import (
    WHOLE_ROWS,
    misreported,
    reported_rows,
    sampled_otherwise,
)
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import Sampling

ROWS, LENGTH, VOCABULARY = 40, 30, 12
Changed = Callable[[NDArray[np.float64], list[int]], NDArray[np.float64]]
"""(probabilities, tokens so far) -> what is sampled from"""


def drawn(changed: Changed, seed: int = 0) -> tuple[Capture, Capture]:
    """(what was sampled, the distributions that are reported)."""
    rng = np.random.default_rng(seed)
    sequences, reported = [], []
    for _ in range(ROWS):
        sequence = [0]
        for _ in range(LENGTH):
            logits = 2.0 * rng.standard_normal(VOCABULARY)
            p = np.exp(logits) / np.exp(logits).sum()
            reported.append(np.log(p))
            sequence.append(int(rng.choice(VOCABULARY, p=changed(p, sequence))))
        sequences.append(sequence)
    mask = [[False] + [True] * LENGTH] * ROWS
    rows = Rows.build(sequences, [1] * ROWS, mask)
    positions = np.flatnonzero(rows.sampled)
    probe_logp = np.array(reported, np.float32)
    logp = np.full(rows.n_tokens, np.nan, np.float32)
    logp[positions] = probe_logp[np.arange(len(positions)), rows.token_ids[positions]]
    capture = Capture(rows, logp, positions, probe_logp)
    # Logits as reported: what divides or adds to them needs the normaliser.
    return capture, replace(capture, probe_lse=np.zeros(len(positions), np.float32))


def as_reported(p: NDArray[np.float64], so_far: list[int]) -> NDArray[np.float64]:
    del so_far
    return p


def nucleus(p: NDArray[np.float64], so_far: list[int]) -> NDArray[np.float64]:
    """top-p 0.8."""
    del so_far
    order = np.argsort(-p)
    kept = np.zeros(len(p))
    kept[order[np.cumsum(p[order]) - p[order] < 0.8]] = 1
    return p * kept / (p * kept).sum()


def sharper(p: NDArray[np.float64], so_far: list[int]) -> NDArray[np.float64]:
    """Temperature 0.5."""
    del so_far
    return p**2 / (p**2).sum()


def penalised(p: NDArray[np.float64], so_far: list[int]) -> NDArray[np.float64]:
    """A presence penalty of 1 on what was generated."""
    less = p * np.exp(-1.0 * np.isin(np.arange(len(p)), so_far[1:]))
    return np.asarray(less / less.sum())


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (nucleus, "sampler-truncation"),
        (sharper, "raw-logprobs-temperature"),
        (penalised, "sampling-penalties"),
    ],
)
def test_how_tokens_were_drawn_is_named(changed: Changed, cause: str) -> None:
    decode, report = drawn(changed)
    found = sampled_otherwise(decode, report, Sampling())
    assert [c.id for c in found] == [cause]
    assert found[0].side == "infer"
    assert found[0].evidence[1].value > 14  # nats, at the right supposition


@pytest.mark.parametrize("seed", range(10))
def test_tokens_drawn_as_reported_raise_no_alarm(seed: int) -> None:
    decode, report = drawn(as_reported, seed)
    assert misreported(decode, report, Sampling()) is None
    assert sampled_otherwise(decode, report, Sampling()) == []


def test_without_distributions_nothing_is_said() -> None:
    decode, report = drawn(nucleus)
    assert misreported(decode, replace(report, probe_logp=None), Sampling()) is None


def test_the_references_rows_are_taken_where_there_are_any() -> None:
    decode, report = drawn(as_reported)
    assert reported_rows({"prefill": decode}) is decode
    assert reported_rows({"prefill": decode, WHOLE_ROWS: report}) is report
