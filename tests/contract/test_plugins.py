"""A plugin changes the model of the side it is given to, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def test_halving_one_tensor_changes_that_sides_log_probs(scorer: Any) -> None:
    stock, changed = scorer.capture("prefill"), scorer.capture("plugin")
    sampled = stock.rows.sampled
    np.testing.assert_array_equal(stock.rows.token_ids, changed.rows.token_ids)
    assert np.abs(stock.logp - changed.logp)[sampled].mean() > 0.01


def test_its_fingerprint_shows_that_tensor_and_no_other(scorer: Any) -> None:
    stock, changed = scorer.capture("prefill").weights, scorer.capture("plugin").weights
    assert list(stock) == list(changed)
    (differing,) = (name for name in stock if stock[name] != changed[name])
    assert differing.startswith("model.layers.1.")
    assert differing.endswith("o_proj.weight")
    assert changed[differing].shape == stock[differing].shape


def test_the_manifest_says_that_the_program_was_patched(scorer: Any) -> None:
    assert scorer.manifest("prefill").patched == []
    (patched,) = scorer.manifest("plugin").patched
    assert patched.startswith("plugin ")
    assert patched.endswith("plugin.py:halve")


def test_a_module_that_a_plugin_returns_is_the_one_that_runs(trainer: Any) -> None:
    changed, returned = trainer.capture("plugin"), trainer.capture("halved")
    np.testing.assert_array_equal(returned.logp, changed.logp)
    assert returned.weights == changed.weights
    assert trainer.manifest("halved").patched[0].endswith("plugin.py:halved")


@pytest.mark.parametrize("engine", ["hf", "fsdp"])
def test_a_compiled_module_says_the_same_under_the_same_names(recorded: Any, engine: str) -> None:
    plain, compiled = recorded(engine).capture("plugin"), recorded(engine).capture("compiled")
    np.testing.assert_allclose(compiled.logp, plain.logp, atol=2e-5)
    assert compiled.weights == plain.weights
