"""Sampling that cut the vocabulary: the search finds the number, whichever it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import FakeSimulator, features

from mismatch_lab.attribution.changes import ROW_CHANGES, distributions_of
from mismatch_lab.attribution.fit import tuned
from mismatch_lab.attribution.hypotheses import Hypothesis, RowChange
from mismatch_lab.attribution.predictions import distributions
from mismatch_lab.attribution.search import Search
from mismatch_lab.attribution.simulate import Predictor
from mismatch_lab.captures.capture import Capture, Rows

ROWS, LENGTH, VOCABULARY = 4, 40, 300


def expected() -> Capture:
    """Falling distributions; every token drawn is among the likeliest three."""
    rng = np.random.default_rng(2)
    logits = 2 * rng.standard_normal((ROWS * LENGTH, VOCABULARY))
    order = np.argsort(-logits, axis=1)
    drawn = order[np.arange(len(order)), rng.integers(0, 3, len(order))].reshape(ROWS, LENGTH)
    rows = Rows.build(
        [[0, *row] for row in drawn.tolist()], [1] * ROWS, [[False] + [True] * LENGTH] * ROWS
    )
    lse = np.log(np.exp(logits).sum(axis=1))
    probe_logp = (logits - lse[:, None]).astype(np.float32)
    positions = np.flatnonzero(rows.sampled)
    logp = np.full(rows.n_tokens, np.nan, np.float32)
    logp[positions] = probe_logp[np.arange(len(positions)), rows.token_ids[positions]]
    return Capture(rows, logp, positions, probe_logp, probe_lse=lse.astype(np.float32))


EXPECTED = expected()


@pytest.mark.parametrize(
    ("name", "number", "within"),
    [
        *(("top_k", k, 0) for k in (7, 11, 25, 33, 57, 150)),
        ("top_p", 0.83, 2e-3),
        ("min_p", 0.07, 2e-3),
        ("presence_penalty", -0.3, 0.02),
        ("repetition_penalty", 1.07, 1e-3),
    ],
)
def test_the_number_is_found(name: str, number: float, within: float) -> None:
    positions = np.flatnonzero(EXPECTED.rows.sampled)
    there = distributions_of(EXPECTED, np.arange(len(positions)), 1.0)
    changed = ROW_CHANGES[name](there, number)
    observed = np.full(EXPECTED.rows.n_tokens, np.nan)
    observed[positions] = changed[np.arange(len(positions)), there.drawn]
    predictor = Predictor(FakeSimulator({}), EXPECTED, 1.0)
    logp = EXPECTED.logp.astype(np.float64)
    search = Search(predictor, logp, observed, EXPECTED.rows.row_ids(), 1e-6, ())
    hypotheses = [*distributions.truncation(features()), *distributions.penalties(features())]
    wanted: Hypothesis = next(h for h in hypotheses if h.rows[0].name == name)
    found = tuned(search.judge, (), replace(wanted, rows=(RowChange(name),)))
    assert found is not None
    value = found.explanation[0].value
    assert isinstance(value, int | float)
    assert abs(value - number) <= within
    assert found.residual_nats < 0.05 * found.before_nats
