"""Verdicts on real log-probs: mini-gpt-oss in bfloat16, vLLM 0.32 on a CPU against transformers.

`recorded/` holds 465 sampled tokens of 16 answers (2026-11-30, AMD EPYC), made by
`mismatch_lab.scorecard.floor_recordings`; `scaled` is the trainer with its logits times 1.05.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.edges import measure_edges
from mismatch_lab.findings.noise_floor import measure_floor
from mismatch_lab.findings.verdict import Decision, Evidence, decide
from mismatch_lab.schema import Limits, NoiseFloor

FILE = Path(__file__).parent / "recorded" / "vllm-mini-gpt-oss-bfloat16.npz"


def recorded() -> tuple[dict[str, np.ndarray], np.ndarray]:
    with np.load(FILE) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return arrays, arrays.pop("row_ids")


def judged(trainer: str, noise_nats: float = 0.0) -> tuple[Decision, NoiseFloor]:
    logp, row_ids = recorded()
    noise = np.random.default_rng(0).normal(0, noise_nats, len(row_ids))
    said = {name: logp[name] for name in ("decode", "prefill", "ref", "floor")}
    said["train"] = logp[trainer] + noise
    captures = {name: _capture(values, row_ids) for name, values in said.items()}
    edges = measure_edges(captures)
    floor = measure_floor(captures, edges, "bfloat16")
    assert floor is not None
    rows = len(np.unique(row_ids))
    return decide(Evidence(edges, floor, None, None, rows), Limits()), floor


def _capture(values: np.ndarray, row_ids: np.ndarray) -> Capture:
    return capture(*(values[row_ids == row].tolist() for row in np.unique(row_ids)))


def test_what_nothing_is_wrong_with_is_numerics() -> None:
    decision, floor = judged("train")
    assert decision.status == "numerics"
    assert floor.typical is not None
    assert 0.5 < floor.typical.infer.value < 1.5


@pytest.mark.parametrize(
    ("trainer", "noise_nats", "at_least"), [("scaled", 0.0, 3.0), ("train", 0.002, 50.0)]
)
def test_what_a_mean_calls_precision(trainer: str, noise_nats: float, at_least: float) -> None:
    """Logits times 1.05, and an error of 0.002 nats on every token: 2.4 and 1.5 floors by means."""
    decision, floor = judged(trainer, noise_nats)
    assert floor.train_ratio.ci95[0] < Limits().floor_ratio
    assert floor.typical is not None
    assert floor.typical.train.value > at_least
    assert decision.status == "mismatch"
    assert any("the trainer's error is typically" in reason for reason in decision.reasons)
