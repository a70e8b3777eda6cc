"""What `score` must record, whatever the engine. All in float32 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.probes import tap_rows
from mismatch_lab.schema import CapturePlan

TAPPED = (
    "model.layers.{}", "model.layers.{}.input_layernorm", "model.layers.{}.self_attn",
    "model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj",
    "model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj",
    "model.layers.{}.post_attention_layernorm", "model.layers.{}.mlp",
    "model.layers.{}.mlp.router", "model.layers.{}.mlp.experts",
)  # fmt: skip

ROUTERS = {"sglang": "gate"}
"""Where the model is a Qwen3-MoE."""


def in_tap_rows(capture: Capture) -> NDArray[np.bool_]:
    """[P] the probes that lie in one of the two rows whose hidden states are recorded."""
    rows = tap_rows(capture.rows, CapturePlan(tap_rows=2, tap_tokens=48))  # as conftest has it
    return np.isin(capture.rows.row_ids()[capture.probe_positions], rows)


def test_it_scored_the_tokens_that_were_sampled(scorer: Any) -> None:
    decode, prefill = scorer.capture("decode"), scorer.capture("prefill")
    np.testing.assert_array_equal(prefill.rows.token_ids, decode.rows.token_ids)
    np.testing.assert_array_equal(prefill.rows.row_offsets, decode.rows.row_offsets)
    np.testing.assert_array_equal(prefill.rows.prompt_lengths, decode.rows.prompt_lengths)
    np.testing.assert_array_equal(prefill.rows.sampled, decode.rows.sampled)
    assert scorer.manifest("prefill").sampling is None


@pytest.mark.parametrize("name", ["prefill", "prefill-bare", "prefill-cool"])
def test_every_token_but_a_rows_first_has_a_log_prob(scorer: Any, name: str) -> None:
    capture = scorer.capture(name)
    firsts = capture.rows.row_offsets[:-1]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(capture.logp)), firsts)


@pytest.mark.parametrize("name", ["prefill", "prefill-cool"])
def test_probes_hold_the_whole_distribution_of_their_token(
    scorer: Any, name: str, rounding_nats: Any
) -> None:
    capture = scorer.capture(name)
    assert len(capture.probe_positions) >= 24
    np.testing.assert_allclose(np.exp(capture.probe_logp.astype(np.float64)).sum(-1), 1, atol=1e-5)
    ids = capture.rows.token_ids[capture.probe_positions]
    np.testing.assert_allclose(
        capture.probe_logp[np.arange(len(ids)), ids],
        capture.logp[capture.probe_positions],
        atol=rounding_nats(capture.logp),
    )


def test_temperature_divides_the_logits(scorer: Any, rounding_nats: Any) -> None:
    # The first answer's first token is drawn at the same place in both: after the same prompt.
    warm, cool = (
        capture.probe_logp[capture.probe_positions == capture.rows.prompt_lengths[0]]
        for capture in (scorer.capture("prefill"), scorer.capture("prefill-cool"))
    )
    assert len(warm) == len(cool) == 1
    expected = warm.astype(np.float64) / 0.7
    expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
    np.testing.assert_allclose(cool, expected, atol=rounding_nats(expected))


def test_scoring_again_gives_the_same_bits(scorer: Any) -> None:
    first, again = scorer.capture("prefill"), scorer.capture("prefill-again")
    np.testing.assert_array_equal(first.logp, again.logp)
    np.testing.assert_array_equal(first.probe_logp, again.probe_logp)
    np.testing.assert_array_equal(first.router_topk, again.router_topk)
    for name, hidden in first.hidden.items():
        np.testing.assert_array_equal(hidden, again.hidden[name])


@pytest.mark.parametrize("name", ["prefill-bare", "prefill-alone"])
def test_neither_the_micro_batch_nor_what_is_recorded_matters(
    scorer: Any, name: str, rounding_nats: Any
) -> None:
    whole, other = scorer.capture("prefill"), scorer.capture(name)
    np.testing.assert_allclose(other.logp, whole.logp, atol=rounding_nats(whole.logp))
    assert other.probe_logp is None
    assert other.router_topk is None
    assert other.hidden == {}


def test_routing_names_the_experts_of_every_token_best_first(scorer: Any) -> None:
    capture = scorer.capture("prefill")
    chosen, logits = capture.router_topk, capture.router_logits
    tokens, layers, experts = logits.shape
    assert chosen.shape == (tokens, layers, 2)
    assert tokens == capture.rows.n_tokens
    assert layers > 1
    assert chosen.min() >= 0  # -1 would say: not recorded
    assert chosen.max() < experts
    # The two largest logits, the larger first.
    expected = np.argsort(-logits, axis=-1, kind="stable")[..., :2]
    np.testing.assert_array_equal(chosen, expected)


def test_taps_hold_every_module_in_and_out_in_tap_rows_and_nothing_elsewhere(scorer: Any) -> None:
    capture = scorer.capture("prefill")
    layers, experts = capture.router_logits.shape[1:]
    router = ROUTERS.get(scorer.engine, "router")
    tapped_names = [name.replace("mlp.router", f"mlp.{router}") for name in TAPPED]
    names = [name.format(layer) for layer in range(layers) for name in tapped_names]
    expected = {f"{name}{end}" for name in [*names, "model.norm"] for end in ("", ":in")}
    assert expected | {"model.embed_tokens"} <= set(capture.hidden)
    width = capture.hidden["model.embed_tokens"].shape[1]
    tapped = in_tap_rows(capture)
    assert 0 < tapped.sum() < len(tapped)
    for name, hidden in capture.hidden.items():
        assert len(hidden) == len(capture.probe_positions), name
        assert np.isfinite(hidden[tapped]).all(), name
        assert np.isnan(hidden[~tapped]).all(), name
        assert hidden[tapped].std() > 0, name
    for layer in range(layers):
        assert capture.hidden[f"model.layers.{layer}"].shape[1] == width
        assert capture.hidden[f"model.layers.{layer}.mlp.{router}"].shape[1] == experts


def test_taps_stand_one_token_before_what_they_predict(scorer: Any) -> None:
    """The embedding at a probe is that of the token before it, and of nothing else."""
    capture = scorer.capture("prefill")
    tapped = in_tap_rows(capture)
    before = capture.rows.token_ids[capture.probe_positions - 1][tapped]
    embedded = capture.hidden["model.embed_tokens"][tapped]
    _, first, inverse = np.unique(before, return_index=True, return_inverse=True)
    np.testing.assert_allclose(embedded, embedded[first][inverse], rtol=1e-5)
    assert len(np.unique(embedded[first].round(3), axis=0)) == len(first) > 10


def test_a_layer_is_its_input_and_what_its_two_blocks_add(scorer: Any) -> None:
    hidden = scorer.capture("prefill").hidden
    layers = scorer.capture("prefill").router_logits.shape[1]
    for layer in range(layers):
        name = f"model.layers.{layer}"
        total = hidden[f"{name}:in"] + hidden[f"{name}.self_attn"] + hidden[f"{name}.mlp"]
        np.testing.assert_allclose(hidden[name], total, rtol=1e-4, atol=1e-4)
        after = hidden.get(f"model.layers.{layer + 1}:in", hidden["model.norm:in"])
        np.testing.assert_allclose(hidden[name], after, rtol=1e-5, atol=1e-5)


def test_an_engine_fed_its_own_inputs_repeats_itself(trainer: Any) -> None:
    prefill, replay = trainer.capture("prefill"), trainer.capture("replay")
    names = [name for name in replay.hidden if not name.endswith(":in")]
    replayed = np.isfinite(replay.hidden["model.norm"]).all(-1)
    assert replayed.sum() >= 2 * 15  # two tap rows
    for name in names:
        a, b = prefill.hidden[name][replayed], replay.hidden[name][replayed]
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a), name
    np.testing.assert_allclose(replay.probe_logp[replayed], prefill.probe_logp[replayed], atol=5e-5)


def test_a_model_without_dropout_scores_the_same_in_training_mode(
    trainer: Any, rounding_nats: Any
) -> None:
    training, evaluating = trainer.capture("prefill-train-mode"), trainer.capture("prefill")
    np.testing.assert_allclose(training.logp, evaluating.logp, atol=rounding_nats(evaluating.logp))
