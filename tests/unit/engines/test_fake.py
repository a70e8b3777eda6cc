"""The fake engine: a noise floor from its dtype, and defects that do what they say.

That it behaves as an engine at all is shown in tests/contract.
"""

from __future__ import annotations

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.fake import FakeEngine
from mismatch_lab.engines.fake_defects import DEFECTS, TENSOR
from mismatch_lab.engines.fake_numerics import to_grid, truncated
from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec

PROMPTS = [Prompt(id=str(i), text=f"What is {i} plus {7 - i}?") for i in range(4)]
SAMPLING = Sampling(max_tokens=16, temperature=0.7)


def engine(side: str = "train", dtype: str = "float32", **args: OptionValue) -> FakeEngine:
    spec = {"side": side, "engine": "fake", "model": "fake", "dtype": dtype, "args": args}
    return FakeEngine(SideSpec.model_validate(spec))


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def decode() -> Capture:
    return engine("infer").generate(PROMPTS, SAMPLING, ignore)


def score(of: Capture, scorer: FakeEngine, **request: object) -> Capture:
    asked = ScoreRequest(temperature=0.7, **request)  # type: ignore[arg-type]
    return scorer.score(of.rows, asked, ignore)


def abs_delta(a: Capture, b: Capture) -> float:
    return float(np.abs(a.logp - b.logp)[a.rows.sampled].mean())


def test_bfloat16_has_eight_significant_bits() -> None:
    # Spacing in [1, 2) is 1/128; 1 + 1/256 is halfway and goes to the even one, 1 + 3/256 up.
    values = np.array([1.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1.1 / 256, -1 - 1.1 / 256])
    expected = [1.0, 1.0, 1 + 2 / 128, 1 + 1 / 128, -1 - 1 / 128]
    assert to_grid(values, "bfloat16").tolist() == expected


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    log_probs = np.log(np.array([0.1, 0.5, 0.4]))
    # 0.5 is short of 0.6, so 0.4 is kept too: 5/9 and 4/9.
    assert np.exp(truncated(log_probs, 0.6)) == pytest.approx([0, 5 / 9, 4 / 9])
    assert np.exp(truncated(log_probs, 0.5)) == pytest.approx([0, 1, 0])
    assert np.exp(truncated(log_probs, 1.0)) == pytest.approx([0.1, 0.5, 0.4])


def test_its_distributions_are_peaked(decode: Capture) -> None:
    # A uniform one over 128 tokens would give -4.85.
    assert np.nanmean(decode.logp) > -1.5


def test_sides_agree_as_well_as_their_dtype_allows(decode: Capture) -> None:
    error = {
        dtype: abs_delta(score(decode, engine("train", dtype)), score(decode, engine("ref")))
        for dtype in ("float64", "float32", "bfloat16")
    }
    assert error["float64"] < error["float32"] * 1.1 < 1e-5
    assert 1e-3 < error["bfloat16"] < 0.2


@pytest.mark.parametrize("defect", sorted(set(DEFECTS) - {"decode", "nan_row"}))
def test_a_planted_defect_shows_in_the_trainers_log_probs(decode: Capture, defect: str) -> None:
    assert abs_delta(decode, score(decode, engine(defect=defect))) > 0.05


@pytest.mark.parametrize("defect", ["decode", "temperature_raw"])
def test_a_defect_of_decoding_shows_against_its_own_prefill(defect: str) -> None:
    sampler = engine("infer", defect=defect)
    sampled = sampler.generate(PROMPTS, SAMPLING, ignore)
    assert abs_delta(sampled, score(sampled, sampler)) > 0.05


def test_nan_row_is_row_0_and_only_that(decode: Capture) -> None:
    logp = score(decode, engine(defect="nan_row")).logp
    stop = decode.rows.row_offsets[1]
    assert np.isnan(logp[:stop]).all()
    np.testing.assert_array_equal(
        np.flatnonzero(np.isnan(logp[stop:])) + stop, decode.rows.row_offsets[1:-1]
    )


def test_shift_gives_each_token_the_log_prob_of_the_one_before(decode: Capture) -> None:
    straight, shifted = (score(decode, engine(**a)).logp for a in ({}, {"defect": "shift"}))
    np.testing.assert_array_equal(shifted[2:20], straight[1:19])
    np.testing.assert_array_equal(np.isnan(shifted), np.isnan(straight))


def test_dropout_is_drawn_anew_and_a_batch_is_not(decode: Capture) -> None:
    dropping, varying = engine(defect="dropout"), engine(defect="batch_variance")
    assert abs_delta(score(decode, dropping), score(decode, dropping)) > 0.05
    assert abs_delta(score(decode, varying), score(decode, varying)) == 0
    alone = score(decode, varying, micro_batch=1)
    assert abs_delta(score(decode, varying), alone) > 0.05


def test_tensor_changes_one_fingerprint() -> None:
    stock, changed = engine().fingerprint(), engine(defect="tensor").fingerprint()
    assert [name for name in stock if stock[name] != changed[name]] == [TENSOR]


def test_the_size_of_a_defect_is_an_option(decode: Capture) -> None:
    small = engine(defect="lm_head_scale", defect_size=0.01)
    large = engine(defect="lm_head_scale", defect_size=0.5)
    assert 0 < abs_delta(decode, score(decode, small)) < abs_delta(decode, score(decode, large)) / 5


def test_an_unknown_defect_is_refused() -> None:
    with pytest.raises(InputError, match="no defect 'gremlin'"):
        engine(defect="gremlin")


def test_ids_outside_its_vocabulary_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 127"):
        engine().generate([Prompt(id="p", token_ids=[5, 128])], SAMPLING, ignore)
