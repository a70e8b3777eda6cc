"""Held-out faults: whole, apart from the others, and each changes what a model says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.faults import FAULTS
from mismatch_lab.faults.base import SEVERITIES
from mismatch_lab.faults.checkpoints import perturb
from mismatch_lab.faults.held_out import HELD_OUT, load_held_out
from mismatch_lab.scorecard.models import HELD_OUT_ARCHITECTURES

GPT_OSS = "gpt_oss"
PASSIVE = {"kv-cache-int8"}
"""Shows with a cache alone; its plant is that of `kv-cache-fp8`, tested there."""
CONFIDENT = {"logits-clamp"}
"""Nothing to clamp in a random model's flat logits."""


@cache
def config_of(name: str) -> Any:
    config = HELD_OUT_ARCHITECTURES[name](vocab_size=96, pad_token_id=0, eos_token_id=1)
    config.initializer_range = 0.2  # large, so that attention looks somewhere
    if name == "phi3":
        config.sliding_window = 32  # shorter than the rows, and a sixteenth of it is two keys
    return config


def build(name: str) -> Any:
    """A random model, the same at every call."""
    return copy.deepcopy(built(name))


@cache
def built(name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_of(name), attn_implementation="eager")  # type: ignore[no-untyped-call]
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)  # random models have them zero
    return model.eval().requires_grad_(False)


def planted() -> list[tuple[str, str]]:
    """Each fault on the first architecture that has the part."""
    cases = []
    for name in HELD_OUT:
        fault = load_held_out(name)
        if fault.plant is None or name in PASSIVE | CONFIDENT:
            continue
        fits = [a for a in HELD_OUT_ARCHITECTURES if fault.applies(a, config_of(a).to_dict())]
        cases.append((name, (fits or [GPT_OSS])[0]))
    return cases


@pytest.mark.parametrize("name", HELD_OUT)
def test_fault_is_whole_and_no_other_has_its_name(name: str) -> None:
    fault = load_held_out(name)
    assert (fault.id, name in FAULTS) == (name, False)
    assert set(fault.severities) == set(SEVERITIES)
    located = [
        fault.expected_location(config)
        for config in (config_of(a).to_dict() for a in HELD_OUT_ARCHITECTURES)
        if fault.applies(config["model_type"], config)
    ]
    assert all(place is None or place.startswith("model.") for place in located)


@pytest.mark.parametrize(("name", "architecture"), planted())
def test_every_severity_changes_what_is_said(
    name: str,
    architecture: str,
    build_model: Callable[[str], Any],
    says: Callable[[Any], np.ndarray[Any, Any]],
) -> None:
    make = build_model if architecture == GPT_OSS else build
    fault = load_held_out(name)
    assert fault.plant is not None
    clean = says(make(architecture))
    for severity in SEVERITIES:
        model = make(architecture)
        fault.plant(model, fault.severities[severity])
        # 1e-6 nats is the noise of fp32 in these models.
        assert float(np.abs(says(model) - clean).mean()) > 1e-6, severity


def test_a_clamp_acts_on_large_logits_alone() -> None:
    fault = load_held_out("logits-clamp")
    assert fault.plant is not None
    import torch

    model = build("qwen2")
    ids = torch.arange(2, 40)[None]
    before = model(input_ids=ids).logits
    fault.plant(model, 0.5)
    assert torch.equal(model(input_ids=ids).logits, before.clamp(-0.5, 0.5))


def test_chunks_begin_with_the_log_prob_before_them() -> None:
    rows = Rows.build([[5, 6, 7, 8, 9]], [2], [[False, False, True, True, True]])
    capture = Capture(rows, np.array([np.nan, -9.0, -0.1, -0.2, -0.3], np.float32))
    fault = load_held_out("chunk-boundary")
    assert fault.rewrite is not None
    # Chunks of two: tokens 0 and 1, then 2, which gets the value of 1.
    assert fault.rewrite(capture, 2).logp[2:].tolist() == pytest.approx([-0.1, -0.2, -0.2])


@pytest.mark.parametrize(
    ("name", "low_rank"), [("lora-merged-twice", True), ("stage-stale", False)]
)
def test_updates(name: str, low_rank: bool, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    build("olmoe").save_pretrained(tmp_path / "before")
    perturb(tmp_path / "before", tmp_path / "after", 0.3, seed=0, low_rank=low_rank)
    old, new, broken = (
        AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float32).requires_grad_(
            False
        )
        for folder in ("before", "after", "after")
    )
    fault = load_held_out(name)
    assert fault.update is not None
    fault.update(broken, tmp_path / "before")
    for part in ("layers.1.self_attn.q_proj.weight", "layers.3.mlp.experts.down_proj"):
        a, b, c = (model.get_parameter(f"model.{part}") for model in (old, new, broken))
        if low_rank:
            torch.testing.assert_close(c, 2 * b - a)  # the experts did not move: b == a
        else:
            assert torch.equal(c, a if part.startswith("layers.3") else b)
