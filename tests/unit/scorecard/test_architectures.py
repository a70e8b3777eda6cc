"""Random models: the same twice, not degenerate, and chosen by their own subset alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mismatch_lab.scorecard.architectures import (
    ARCHITECTURES,
    CI_ARCHITECTURES,
    DIFFERENT,
    PREFIX,
    make,
)
from mismatch_lab.scorecard.models import RANDOM_MODELS, checkpoint
from mismatch_lab.scorecard.select import Selection, select


def test_there_are_forty_and_ci_holds_eight_of_them() -> None:
    assert set(DIFFERENT) < set(ARCHITECTURES)
    assert len(RANDOM_MODELS) == len(ARCHITECTURES) - len(DIFFERENT) >= 40
    assert len(set(CI_ARCHITECTURES)) == 8
    assert {f"{PREFIX}{name}" for name in CI_ARCHITECTURES} <= set(RANDOM_MODELS)


def test_the_subset_has_each_in_both_dtypes_and_no_fault(tmp_path: Path) -> None:
    chosen = [p.case for p in select(Selection(("architectures",)), [], "vllm", tmp_path)]
    assert {case.kind for case in chosen} == {"control"}
    assert {(case.model, case.dtype) for case in chosen} == {
        (name, dtype) for name in RANDOM_MODELS for dtype in ("float32", "bfloat16")
    }
    one = Selection(("architectures",), models=(f"{PREFIX}llama",))
    assert [p.case.id for p in select(one, [], "vllm", tmp_path)] == [
        "healthy.float32.random-llama.fp32",
        "healthy.bfloat16.random-llama.bf16",
    ]
    full = select(Selection(("full",)), [], "vllm", tmp_path)
    assert not {p.case.model for p in full} & set(RANDOM_MODELS)


@pytest.mark.parametrize("name", ["llama", "glm4_moe"])
def test_a_model_is_the_same_every_time_and_not_degenerate(name: str, tmp_path: Path) -> None:
    folder = Path(checkpoint(f"{PREFIX}{name}", tmp_path))
    make(name, tmp_path / "again")
    first, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    norm = first["model.norm.weight"].float()
    assert norm.std() == pytest.approx(0.1, rel=0.3)
    assert norm.mean() == pytest.approx(1.0, abs=0.05)
    assert first["lm_head.weight"].float().std() == pytest.approx(0.08, rel=0.05)
    bias = first.get("model.layers.1.mlp.gate.e_score_correction_bias")
    if bias is not None:
        assert bias.dtype == torch.float32  # as published checkpoints have it
        assert bias.std() > 0.1
