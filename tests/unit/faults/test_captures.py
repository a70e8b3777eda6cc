"""Defects of the glue, on a capture small enough to follow by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES, Fault, Severity

NAN = float("nan")


@pytest.fixture
def small() -> Capture:
    """Two rows, prompts of two tokens, answers of three and two tokens."""
    rows = Rows.build(
        [[5, 6, 7, 8, 9], [5, 6, 4, 3]],
        [2, 2],
        [[False, False, True, True, True], [False, False, True, True]],
    )
    logp = [NAN, -9.0, -0.1, -0.2, -0.3, NAN, -9.0, -0.4, -0.5]
    return Capture(rows, np.array(logp, np.float32))


def rewritten(name: str, capture: Capture, strength: float | str) -> list[float]:
    """Log-probs of the five sampled tokens after the fault."""
    fault = load_fault(name)
    assert fault.rewrite is not None
    broken = fault.rewrite(capture, strength)
    broken.validate(name)
    unsampled = ~capture.rows.sampled
    if name not in ("temperature-on-logprobs", "log-softmax-bf16", "transport-bf16"):
        np.testing.assert_array_equal(broken.logp[unsampled], capture.logp[unsampled])
    return [round(float(v), 6) for v in broken.logp[capture.rows.sampled]]


def test_shift(small: Capture) -> None:
    assert rewritten("shift-infer", small, 1.0) == [-0.3, -0.1, -0.2, -0.5, -0.4]
    assert rewritten("shift-train", small, 1.0) == [-0.2, -0.3, -0.1, -0.5, -0.4]
    assert rewritten("shift-infer", small, 0.5) == [-0.3, -0.1, -0.2, -0.4, -0.5]


def test_boundary_takes_the_neighbours_first(small: Capture) -> None:
    assert rewritten("packing-boundary", small, 1.0) == [-0.1, -0.2, -0.4, -0.4, -0.1]


def test_terminal_tokens(small: Capture) -> None:
    assert rewritten("synthetic-eos", small, 1.0) == [-0.1, -0.2, 0.0, -0.4, 0.0]
    assert rewritten("masked-eos", small, 0.5) == [-0.1, -0.2, 0.0, -0.4, -0.5]


def test_sentinels(small: Capture) -> None:
    assert rewritten("sentinel-clamp", small, 0.4) == [-0.1, -0.2, -0.3, -9999.0, -9999.0]
    assert rewritten("sentinel-zero", small, 0.4).count(0.0) == 2


def test_temperature_divides_log_probs(small: Capture) -> None:
    assert rewritten("temperature-on-logprobs", small, 0.5) == [-0.2, -0.4, -0.6, -0.8, -1.0]


def test_bf16_grid(small: Capture) -> None:
    # bf16 keeps 8 bits: of 0.1 = 1.6 / 16 it keeps 1.6015625 / 16.
    assert rewritten("transport-bf16", small, "bfloat16")[0] == -0.100098
    assert rewritten("transport-bf16", small, "decimals-2") == [-0.1, -0.2, -0.3, -0.4, -0.5]
    assert np.isnan(small.logp[0])
    fault = load_fault("log-softmax-bf16")
    assert fault.rewrite is not None
    assert np.isnan(fault.rewrite(small, 1.0).logp[0])


def test_bf16_agrees_with_torch() -> None:
    import torch

    from mismatch_lab.faults.precision import narrowed

    values = np.random.default_rng(0).normal(-1, 3, 1000).astype(np.float32)
    wanted = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(narrowed(values, "bfloat16"), wanted)


def test_log_softmax_rounds_probes_of_chosen_rows(small: Capture) -> None:
    probes = np.full((2, 3), np.log(1 / 3), np.float32)
    full = Capture(small.rows, small.logp, np.array([2, 8]), probes)
    fault = load_fault("log-softmax-bf16")
    assert fault.rewrite is not None
    broken = fault.rewrite(full, 0.5).probe_logp
    assert broken is not None
    assert (broken[0] != probes[0]).all()  # row 0 is chosen
    np.testing.assert_array_equal(broken[1], probes[1])


@pytest.mark.parametrize("name", [n for n in FAULTS if load_fault(n).kind == "capture"])
def test_stronger_glue_faults_disagree_more(name: str) -> None:
    rng = np.random.default_rng(0)
    lengths = [30] * 16
    rows = Rows.build(
        [[2] * n for n in lengths], [6] * 16, [[False] * 6 + [True] * (n - 6) for n in lengths]
    )
    logp = -rng.exponential(1.0, rows.n_tokens).astype(np.float32)
    capture = Capture(rows, np.where(rows.sampled, logp, np.nan).astype(np.float32))
    fault = load_fault(name)
    other = replace(capture, logp=capture.logp - 1)
    found = [
        _disagreement(_rewritten(fault, capture, other, severity).logp[rows.sampled], capture)
        for severity in SEVERITIES
    ]
    assert found[0] > found[1] > found[2] > 0, found


def _rewritten(fault: Fault, capture: Capture, other: Capture, severity: Severity) -> Capture:
    strength = fault.severities[severity]
    if fault.copy is not None:
        return fault.copy(capture, other, strength)
    assert fault.rewrite is not None
    return fault.rewrite(capture, strength)


LOST_NATS = 20.0
"""What a token without a log-prob counts for."""


def _disagreement(logp: np.ndarray[Any, Any], sound: Capture) -> float:
    delta = np.abs(logp - sound.logp[sound.rows.sampled])
    return float(np.mean(np.where(np.isfinite(delta), delta, LOST_NATS)))
