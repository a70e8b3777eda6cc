"""`--trainer FILE.py:FUNC`: the example's function against transformers, healthy and broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.function import check_trainer
from mismatch_lab.engines.trl import Trl
from mismatch_lab.errors import InputError

Diagnose = Callable[..., dict[str, Any]]
OWN = f"{Path(__file__).parents[2] / 'examples' / 'own_trainer.py'}:load"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_example_keeps_the_contract() -> None:
    check_trainer(OWN, resolve_model_path("mini-gpt-oss"), "bfloat16")


def test_a_healthy_function_is_the_same_policy(diagnose: Diagnose) -> None:
    found = diagnose("mini-gpt-oss", "--engine", "hf", "--trainer", OWN, "--dtype", "float32")
    assert found["verdict"]["status"] == "match"
    assert found["edges"]["train_train"]["abs_delta_mean"]["n"] > 100


def test_a_defect_of_a_function_is_named_with_side_and_module(diagnose: Diagnose) -> None:
    found = diagnose(
        "mini-gpt-oss", "--engine", "hf", "--trainer", OWN, "--dtype", "bfloat16",
        "--trainer-arg", "drop_sinks=true", "--depth", "standard", budget_s=120,
    )  # fmt: skip
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("attention-sinks-dropped", "train")
    assert cause["location"] == "model.layers.0.self_attn"
    assert cause["confidence"] > 0.9
    # Its module was named, so hidden states are there; nothing was tried on the function itself.
    assert found["localisation"]["first_divergent_module"] == "model.layers.0.self_attn"
    assert found["localisation"]["side"] == "train"
    assert all(seen["by"] != "side" for seen in cause["confirmed_by"])


def test_trls_own_log_probs_are_those_of_the_model(diagnose: Diagnose) -> None:
    trl = ("--engine", "hf", "--trainer", "trl", "--depth", "standard")
    found = diagnose("mini-gpt-oss", *trl, "--dtype", "float32", "--temperature", "0.7")
    assert found["verdict"]["status"] == "match"
    assert len(found["localisation"]["per_module"]) > 30
    assert found["localisation"]["first_divergent_module"] is None


@pytest.mark.parametrize("fp32_head", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_trl_in_bfloat16_is_within_its_floor(
    diagnose: Diagnose, llama: Path, tmp_path: Path, fp32_head: str
) -> None:
    (tmp_path / "grpo.yaml").write_text(
        f"model_name_or_path: elsewhere\ncast_lm_head_to_fp32: {fp32_head}\nbeta: 0.01\n"
    )
    found = diagnose(
        str(llama), "--engine", "hf", "--trainer", "trl", "--dtype", "bfloat16",
        "--trainer-arg", f"config={tmp_path / 'grpo.yaml'}",
    )  # fmt: skip
    assert found["verdict"]["status"] == "numerics"


@pytest.mark.filterwarnings("ignore")  # TRL and what it imports warn of versions
def test_an_option_that_trl_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="cast_lm_head_to_fp32"):
        Trl(resolve_model_path("mini-gpt-oss"), "float32", {"cast_lm_head_to_fp23": True})
