"""`diagnose` where a trainer and its usual reference are broken alike: both are transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BROKEN = Path(__file__).with_name("broken_transformers")

pytestmark = pytest.mark.timeout(900)

HF = ("--engine", "hf", "--engine-python", sys.executable)
"""An engine that is whole: an interpreter of its own is not given this one's PYTHONPATH."""


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("broken", "module", "cause"),
    [
        pytest.param("sinks", "model.layers.0.self_attn", "attention-sinks-dropped", marks=LONG),
        pytest.param("rotary", "model.layers.0.self_attn", None, marks=LONG),
        pytest.param("norm", "model.layers.0.input_layernorm", None, marks=LONG),
        pytest.param("router", "model.layers.0.mlp", None, marks=LONG),
    ],
)
def test_what_transformers_does_wrong_is_the_trainers(
    diagnose: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    module: str,
    cause: str | None,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BROKEN))
    monkeypatch.setenv("BREAK_TRANSFORMERS", f"gpt_oss:{broken}")
    findings = diagnose(*HF, "--dtype", "float32", "--depth", "standard", budget_s=240)
    assert findings["verdict"]["status"] == "mismatch"
    assert findings["reference"]["outcome"] == "contradicts"
    assert findings["localisation"]["side"] == "train"
    assert findings["localisation"]["first_divergent_module"].startswith(module)
    first, *others = findings["verdict"]["causes"]
    assert first["side"] == "train"
    assert first["id"] == cause or cause is None
    assert first["id"] not in [other["id"] for other in others]


@pytest.mark.vllm
def test_vllm_is_not_accused_of_the_sinks_that_transformers_drops(
    diagnose: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BROKEN))
    monkeypatch.setenv("BREAK_TRANSFORMERS", "gpt_oss:sinks")
    options = ("--engine-python", sys.executable, "--dtype", "float32", "--depth", "standard")
    findings = diagnose(*options, budget_s=240)
    assert findings["reference"]["outcome"] == "contradicts"
    first = findings["verdict"]["causes"][0]
    assert (first["id"], first["side"]) == ("attention-sinks-dropped", "train")
    assert first["confirmed_by"]
