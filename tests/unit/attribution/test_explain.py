"""One suspect from its single tokens to its layers: 10 rows of a prompt token and four others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import AdditivePredictor, a_suspect, features, rows_of

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.explain import Simulated, explain
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.attribution.simulate import Prediction, Predictor
from mismatch_lab.attribution.suspects import Suspect

ROWS = rows_of(*[5] * 10)
LAST = ROWS.row_offsets[1:] - 1
EXPECTED = -np.linspace(0.501, 0.991, 50)
EXPECTED[ROWS.row_offsets[:-1]] = np.nan
ALTERNATING = np.where(np.arange(50) % 2, 0.3, -0.3)
SINKS = np.where(np.arange(50) % 3, 0.2, -0.3)
"""What dropped sinks do to the log-probs here."""
GPT_OSS = {"model_type": "gpt_oss", "num_hidden_layers": 2}
NOISE = 0.001


def suspect_of(observed: Float64) -> Suspect:
    return a_suspect(observed, EXPECTED, noise_nats=NOISE)


def found_in(observed: Float64, predictor: AdditivePredictor) -> Simulated:
    return explain(suspect_of(observed), features("train", GPT_OSS), ROWS, predictor, ())


def predictor(budget: int | None = None) -> AdditivePredictor:
    return AdditivePredictor(EXPECTED, {"attention-sinks-dropped": SINKS}, budget)


def test_a_sound_suspect_is_not_searched() -> None:
    asked = predictor()
    found = found_in(EXPECTED.copy(), asked)
    assert found.done
    assert found.explanation == ()
    assert asked.asked == []


def test_a_defect_is_found_and_judged_on_all_rows() -> None:
    found = found_in(EXPECTED + SINKS, predictor())
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]
    assert found.done
    assert found.whole == found.explanation
    assert found.outcome.best is not None
    assert found.outcome.best.n == 40


def test_what_nothing_explains_is_left() -> None:
    found = found_in(EXPECTED - SINKS, predictor())  # the opposite change
    assert not found.done
    assert found.explanation == ()
    assert found.left_nats == pytest.approx(np.nanmean(np.abs(SINKS[ROWS.sampled])))
    assert found.outcome.tried["attention-sinks-dropped"].explained == pytest.approx(-1)


def test_constants_are_left_out_of_the_error() -> None:
    observed = EXPECTED.copy()
    observed[[1, 7]] = -30.0
    found = found_in(observed, predictor())
    assert [p.cause for p in found.patterns] == ["sentinel-values"]
    assert found.left_nats == 0.0
    assert found.explanation == ()


def test_a_defect_is_found_beside_constants() -> None:
    observed = EXPECTED + SINKS
    observed[[1, 7]] = -30.0
    found = found_in(observed, predictor())
    assert [p.cause for p in found.patterns] == ["sentinel-values"]
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]
    assert found.done
    assert found.outcome.best is not None
    assert found.outcome.best.n == 38


def test_a_defect_of_all_tokens_that_looks_like_constants_is_the_simpler_answer() -> None:
    change = np.where(np.isin(np.arange(50), [1, 7]), -3.0 - EXPECTED, 0.01)
    asked = AdditivePredictor(EXPECTED, {"attention-sinks-dropped": change})
    found = found_in(EXPECTED + change, asked)
    assert found.patterns == []
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]


class InLayers(AdditivePredictor):
    """Sinks dropped in layer 1 only do what was seen; in both layers something else."""

    def predict(self, explanation: Explanation) -> Prediction | None:
        if any(h.cause != "attention-sinks-dropped" for h in explanation):
            return None
        flat = np.flatnonzero(np.isfinite(EXPECTED))
        layers = [h.model[0].layers for h in explanation]
        change = SINKS if layers == [(1,)] else ALTERNATING
        return Prediction(flat, (EXPECTED + change)[flat])


def test_a_defect_of_one_layer_is_found_in_it() -> None:
    found = found_in(EXPECTED + SINKS, InLayers(EXPECTED, {}))
    (hypothesis,) = found.explanation
    assert hypothesis.model[0].layers == (1,)
    assert hypothesis.location == "model.layers.1.self_attn"
    assert found.done


def test_a_budget_that_ends_is_told() -> None:
    found = found_in(EXPECTED + SINKS, predictor(budget=0))
    assert not found.outcome.finished
    assert found.explanation == ()
    assert found.left_nats == pytest.approx(np.nanmean(np.abs(SINKS[ROWS.sampled])))


def test_known_defects_hold_beside_what_is_found() -> None:
    known = hypotheses_for(features("train", GPT_OSS))[0]
    both = AdditivePredictor(EXPECTED, {known.cause: 0 * SINKS, "attention-sinks-dropped": SINKS})
    found = explain(suspect_of(EXPECTED + SINKS), features("train", GPT_OSS), ROWS, both, (known,))
    assert [h.cause for h in found.whole] == [known.cause, "attention-sinks-dropped"]
    assert all(asked[0] == known.cause for asked in both.asked)


def test_exploring_is_on_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = predictor()
    sizes: list[int] = []

    def small_of(first_rows: int) -> Predictor:
        sizes.append(first_rows)
        return asked

    monkeypatch.setattr(asked, "small", small_of)
    found_in(EXPECTED + SINKS, asked)
    assert sizes == [8]
    few = replace(
        suspect_of(EXPECTED + SINKS),
        observed=(EXPECTED + SINKS)[:40],
        expected=EXPECTED[:40],
    )
    small = AdditivePredictor(EXPECTED[:40], {"attention-sinks-dropped": SINKS[:40]})
    monkeypatch.setattr(small, "small", lambda first: pytest.fail("8 rows are all there are"))
    assert explain(few, features("train", GPT_OSS), rows_of(*[5] * 8), small, ()).done
