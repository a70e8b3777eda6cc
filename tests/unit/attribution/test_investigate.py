"""One suspect from its single tokens to its layers: 10 rows of a prompt token and four others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import AdditiveWorld, a_charge, clues, rows_of

from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.investigate import Inquiry, investigate
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.attribution.simulate import Prediction, World
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.token_changes import Float64

ROWS = rows_of(*[5] * 10)
LAST = ROWS.row_offsets[1:] - 1
SOUND = -np.linspace(0.501, 0.991, 50)
SOUND[ROWS.row_offsets[:-1]] = np.nan
ALTERNATING = np.where(np.arange(50) % 2, 0.3, -0.3)
SINKS = np.where(np.arange(50) % 3, 0.2, -0.3)
"""What dropped sinks do to the log-probs here."""
GPT_OSS = {"model_type": "gpt_oss", "num_hidden_layers": 2}
NOISE = 0.001


def charge_of(observed: Float64) -> Charge:
    return a_charge(observed, SOUND, noise_nats=NOISE)


def found_in(observed: Float64, world: AdditiveWorld) -> Inquiry:
    return investigate(charge_of(observed), clues("train", GPT_OSS), ROWS, world, ())


def world(budget: int | None = None) -> AdditiveWorld:
    return AdditiveWorld(SOUND, {"attention-sinks-dropped": SINKS}, budget)


def test_a_sound_suspect_is_not_searched() -> None:
    asked = world()
    found = found_in(SOUND.copy(), asked)
    assert found.done
    assert found.explanation == ()
    assert asked.asked == []


def test_a_defect_is_found_and_judged_on_all_rows() -> None:
    found = found_in(SOUND + SINKS, world())
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]
    assert found.done
    assert found.whole == found.explanation
    assert found.pursuit.best is not None
    assert found.pursuit.best.n == 40


def test_what_nothing_explains_is_left() -> None:
    found = found_in(SOUND - SINKS, world())  # the opposite change
    assert not found.done
    assert found.explanation == ()
    assert found.left_nats == pytest.approx(np.nanmean(np.abs(SINKS[ROWS.sampled])))
    assert found.pursuit.tried["attention-sinks-dropped"].explained == pytest.approx(-1)


def test_constants_are_left_out_of_the_error() -> None:
    observed = SOUND.copy()
    observed[[1, 7]] = -30.0
    found = found_in(observed, world())
    assert [p.cause for p in found.patterns] == ["sentinel-values"]
    assert found.left_nats == 0.0
    assert found.explanation == ()


def test_a_defect_is_found_beside_constants() -> None:
    observed = SOUND + SINKS
    observed[[1, 7]] = -30.0
    found = found_in(observed, world())
    assert [p.cause for p in found.patterns] == ["sentinel-values"]
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]
    assert found.done
    assert found.pursuit.best is not None
    assert found.pursuit.best.n == 38


def test_a_defect_of_all_tokens_that_looks_like_constants_is_the_simpler_answer() -> None:
    change = np.where(np.isin(np.arange(50), [1, 7]), -3.0 - SOUND, 0.01)
    asked = AdditiveWorld(SOUND, {"attention-sinks-dropped": change})
    found = found_in(SOUND + change, asked)
    assert found.patterns == []
    assert [h.cause for h in found.explanation] == ["attention-sinks-dropped"]


class InLayers(AdditiveWorld):
    """Sinks dropped in layer 1 only do what was seen; in both layers something else."""

    def predict(self, explanation: Explanation) -> Prediction | None:
        if any(h.cause != "attention-sinks-dropped" for h in explanation):
            return None
        flat = np.flatnonzero(np.isfinite(SOUND))
        layers = [h.model[0].layers for h in explanation]
        change = SINKS if layers == [(1,)] else ALTERNATING
        return Prediction(flat, (SOUND + change)[flat])


def test_a_defect_of_one_layer_is_found_in_it() -> None:
    found = found_in(SOUND + SINKS, InLayers(SOUND, {}))
    (hypothesis,) = found.explanation
    assert hypothesis.model[0].layers == (1,)
    assert hypothesis.location == "model.layers.1.self_attn"
    assert found.done


def test_a_budget_that_ends_is_told() -> None:
    found = found_in(SOUND + SINKS, world(budget=0))
    assert not found.pursuit.finished
    assert found.explanation == ()
    assert found.left_nats == pytest.approx(np.nanmean(np.abs(SINKS[ROWS.sampled])))


def test_known_defects_hold_beside_what_is_found() -> None:
    known = hypotheses_for(clues("train", GPT_OSS))[0]
    both = AdditiveWorld(SOUND, {known.cause: 0 * SINKS, "attention-sinks-dropped": SINKS})
    found = investigate(charge_of(SOUND + SINKS), clues("train", GPT_OSS), ROWS, both, (known,))
    assert [h.cause for h in found.whole] == [known.cause, "attention-sinks-dropped"]
    assert all(asked[0] == known.cause for asked in both.asked)


def test_exploring_is_on_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = world()
    sizes: list[int] = []

    def small_of(first_rows: int) -> World:
        sizes.append(first_rows)
        return asked

    monkeypatch.setattr(asked, "small", small_of)
    found_in(SOUND + SINKS, asked)
    assert sizes == [8]
    few = replace(charge_of(SOUND + SINKS), observed=(SOUND + SINKS)[:40], sound=SOUND[:40])
    small = AdditiveWorld(SOUND[:40], {"attention-sinks-dropped": SINKS[:40]})
    monkeypatch.setattr(small, "small", lambda first: pytest.fail("8 rows are all there are"))
    assert investigate(few, clues("train", GPT_OSS), rows_of(*[5] * 8), small, ()).done
