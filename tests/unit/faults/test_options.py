"""Faults of configuration: what they ask of the run, and of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES
from mismatch_lab.schema import Sampling


def test_raw_log_probs_at_another_temperature() -> None:
    fault = load_fault("raw-temperature")
    assert fault.options is not None
    asked = fault.options(0.4)
    assert asked.engine_args == {"logprobs_mode": "raw_logprobs"}
    assert asked.sampling == {"temperature": 0.6}


@pytest.mark.parametrize(
    ("name", "strength", "field", "value"),
    [
        ("top-k", 0.2, "top_k", 5),
        ("min-p", 0.1, "min_p", 0.1),
        ("repetition-penalty", 0.05, "repetition_penalty", 1.05),
    ],
)
def test_generation_config_gains_one_field(
    name: str, strength: float, field: str, value: float, tmp_path: Path
) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 1}))
    fault = load_fault(name)
    assert fault.options is not None
    asked = fault.options(strength)
    assert asked.checkpoint_edit is not None
    asked.checkpoint_edit(tmp_path)
    assert json.loads(path.read_text()) == {"eos_token_id": 1, field: value}
    assert asked.engine_args == {"generation_config": "auto"}


@pytest.mark.parametrize("name", [n for n in FAULTS if load_fault(n).options is not None])
def test_sampling_fields_are_those_of_a_run(name: str) -> None:
    fault = load_fault(name)
    assert fault.options is not None
    for severity in SEVERITIES:
        Sampling.model_validate(fault.options(fault.severities[severity]).sampling)


def test_terminal_faults_cut_answers_short() -> None:
    for name in ("synthetic-eos", "masked-eos"):
        fault = load_fault(name)
        assert fault.options is not None
        assert fault.options(1.0).sampling == {"max_tokens": 16}
