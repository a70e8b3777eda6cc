"""What `generate` must record, whatever the engine."""

from __future__ import annotations

from typing import Any

import numpy as np


def spans_of_turns(sampled: Any) -> list[tuple[bool, int]]:
    """Run lengths of the sampled marks of one row: (sampled?, tokens)."""
    edges = np.flatnonzero(np.diff(sampled.astype(int))) + 1
    parts = np.split(sampled, edges)
    return [(bool(part[0]), len(part)) for part in parts]


def test_log_probs_stand_where_tokens_were_sampled_and_nowhere_else(sampler: Any) -> None:
    capture = sampler.capture("decode")
    assert capture.rows.n_rows == 5
    np.testing.assert_array_equal(np.isfinite(capture.logp), capture.rows.sampled)
    assert (capture.logp[capture.rows.sampled] <= 0).all()


def test_a_single_turn_is_a_prompt_and_then_an_answer(sampler: Any) -> None:
    rows = sampler.capture("decode").rows
    for row, (start, stop) in list(enumerate(rows.spans()))[:4]:
        prompt, answer = spans_of_turns(rows.sampled[start:stop])
        assert prompt == (False, int(rows.prompt_lengths[row]))
        assert answer[0]
        assert 1 <= answer[1] <= 16  # max_tokens


def test_later_user_turns_are_in_the_row_and_not_sampled(sampler: Any) -> None:
    capture = sampler.capture("decode")
    start, stop = list(capture.rows.spans())[4]
    turns = spans_of_turns(capture.rows.sampled[start:stop])
    assert [sampled for sampled, _ in turns] == [False, True] * 3
    assert turns[0][1] == capture.rows.prompt_lengths[4]
    ids = capture.rows.token_ids[start:stop].tolist()
    second_user_turn = slice(sum(n for _, n in turns[:2]), sum(n for _, n in turns[:3]))
    text = "".join(capture.token_text[token] for token in ids[second_user_turn])
    assert "He buys 2 more. And now?" in text


def test_a_seed_repeats_and_another_seed_does_not(sampler: Any) -> None:
    first, again, other = (
        sampler.capture(name) for name in ("decode", "decode-again", "decode-other-seed")
    )
    np.testing.assert_array_equal(first.rows.token_ids, again.rows.token_ids)
    np.testing.assert_array_equal(first.logp, again.logp)
    assert first.rows.token_ids.tolist() != other.rows.token_ids.tolist()


def test_a_cooler_decode_returns_what_its_own_prefill_says_at_that_temperature(
    sampler: Any,
) -> None:
    decode, prefill = sampler.capture("decode-cool"), sampler.capture("prefill-cool")
    sampled = decode.rows.sampled
    np.testing.assert_allclose(decode.logp[sampled], prefill.logp[sampled], atol=5e-5)
    # And 0.7 is not 1: scored at temperature 1, the same tokens are less likely.
    warm = sampler.capture("decode").logp
    assert np.nanmean(decode.logp) > np.nanmean(warm)


def test_truncated_sampling_returns_renormalised_log_probs_but_for_sglang(sampler: Any) -> None:
    decode, prefill = sampler.capture("decode-top-p"), sampler.capture("prefill-top-p")
    gain = (decode.logp - prefill.logp)[decode.rows.sampled]
    if sampler.engine == "sglang":  # after the temperature, and of the whole vocabulary
        np.testing.assert_allclose(gain, 0, atol=5e-5)
        return
    # The kept tokens hold between 0.6 and 1 of the mass: between 0 and log(1 / 0.6) is gained.
    assert gain.min() > -5e-5
    assert gain.max() < np.log(1 / 0.6) + 5e-5
    assert gain.max() > 0.01


def test_every_sampled_token_has_its_text(sampler: Any) -> None:
    capture = sampler.capture("decode")
    assert set(capture.token_text) == set(capture.rows.token_ids.tolist())


def test_the_manifest_says_how_it_was_sampled(sampler: Any) -> None:
    manifest = sampler.manifest("decode-cool")
    assert manifest.engine == sampler.engine
    assert manifest.sampling is not None
    assert manifest.sampling.temperature == 0.7
    assert manifest.logprob_space == "processed"
    assert manifest.patched == []
