"""Which sampling fields come from the checkpoint, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mismatch_lab.engines.vllm_options import inherited_sampling

NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_k": 0,
    "min_p": 0.0, "temperature": 0.6, "top_p": 0.8,
}  # fmt: skip


def llm(**changed: Any) -> Any:
    """Its checkpoint asks for a temperature of 0.6 and a top-p of 0.8, and for `changed`."""
    found = SimpleNamespace(**(NEUTRAL | changed))
    return SimpleNamespace(get_default_sampling_params=lambda: found)


def test_fields_that_a_run_does_not_set_are_inherited() -> None:
    asked = llm(repetition_penalty=1.1, top_k=20, min_p=0.05)
    expected = {"repetition_penalty": 1.1, "top_k": 20, "min_p": 0.05}
    assert inherited_sampling(asked) == expected


def test_neutral_values_are_not_worth_a_word() -> None:
    assert inherited_sampling(llm()) == {}
    assert inherited_sampling(llm(top_k=-1)) == {}
