"""Log-prob parity as a test: `pytest test_parity.py`; the plugin comes with the package.

The baseline is test_parity.parity/test_the_engine_samples_what_we_train.json beside this file:
`pytest --parity-accept` writes it (and fails, since nothing was compared); commit it.
"""

from __future__ import annotations

from mismatch_lab.gate.pytest_plugin import LogprobParity, assert_logprob_parity


def test_the_engine_samples_what_we_train(logprob_parity: LogprobParity) -> None:
    logprob_parity("mini-gpt-oss", "--engine", "hf", "--dtype", "bfloat16")


def test_without_a_baseline() -> None:
    assert_logprob_parity("mini-gpt-oss", "--dtype", "float32", engine="hf", trainer="fsdp")
