"""Held-out faults: whole, apart from the others, and each changes what a model says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.faults import FAULTS
from mismatch_lab.faults.base import SEVERITIES, Fault
from mismatch_lab.faults.checkpoints import perturb
from mismatch_lab.faults.held_out import HELD_OUT, load_held_out
from mismatch_lab.faults.held_out_second import HELD_OUT_SECOND
from mismatch_lab.scorecard.models import (
    HELD_OUT_ARCHITECTURES,
    SECOND_ARCHITECTURES,
    UNSEEN_ARCHITECTURES,
)

GPT_OSS = "gpt_oss"
PASSIVE = {"kv-cache-int8"}
"""Shows with a cache alone; its plant is that of `kv-cache-fp8`, tested there."""
CONFIDENT = {"logits-clamp"}
"""Nothing to clamp in a random model's flat logits."""


def load(name: str) -> Fault:
    return load_held_out(name, HELD_OUT | HELD_OUT_SECOND)


def fitting(fault: Fault) -> list[str]:
    """The architectures of the fault's set that have the part."""
    unseen = HELD_OUT_ARCHITECTURES if fault.id in HELD_OUT else SECOND_ARCHITECTURES
    return [a for a in unseen if fault.applies(config_of(a).model_type, config_of(a).to_dict())]


@cache
def config_of(name: str) -> Any:
    config = UNSEEN_ARCHITECTURES[name](vocab_size=96, pad_token_id=0, eos_token_id=1)
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
    for name in (*HELD_OUT, *HELD_OUT_SECOND):
        fault = load(name)
        if fault.plant is None or name in PASSIVE | CONFIDENT:
            continue
        cases.append((name, (fitting(fault) or [GPT_OSS])[0]))
    return cases


@pytest.mark.parametrize("name", [*HELD_OUT, *HELD_OUT_SECOND])
def test_fault_is_whole_and_no_other_has_its_name(name: str) -> None:
    fault = load(name)
    assert fault.id == name
    assert [name in names for names in (FAULTS, HELD_OUT, HELD_OUT_SECOND)].count(True) == 1
    assert set(fault.severities) == set(SEVERITIES)
    assert set(fault.causes) <= set(CAUSES)
    for architecture in fitting(fault):
        place = fault.expected_location(config_of(architecture).to_dict())
        names = {n for n, _ in built(architecture).named_modules()}
        assert place is None or place.removesuffix(".weight") in names


@pytest.mark.parametrize(("name", "architecture"), planted())
def test_every_severity_changes_what_is_said(
    name: str,
    architecture: str,
    build_model: Callable[[str], Any],
    says: Callable[[Any], np.ndarray[Any, Any]],
) -> None:
    make = build_model if architecture == GPT_OSS else build
    fault = load(name)
    assert fault.plant is not None
    clean = says(make(architecture))
    differences = []
    for severity in SEVERITIES:
        model = make(architecture)
        fault.plant(model, fault.severities[severity])
        differences.append(float(np.abs(says(model) - clean).mean()))
    # 1e-6 nats is the noise of fp32 in these models.
    assert min(differences) > 1e-6
    if name in HELD_OUT_SECOND:
        assert differences == sorted(differences, reverse=True)


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


@pytest.mark.parametrize(
    ("name", "low_rank"), [("adapter-part-dropped", True), ("averaged-weights", False)]
)
def test_updates_of_the_second_set(name: str, low_rank: bool, tmp_path: Path) -> None:
    import torch

    old = build("starcoder2")
    old.save_pretrained(tmp_path / "before")
    perturb(tmp_path / "before", tmp_path / "after", 0.3, seed=0, low_rank=low_rank)
    new, broken = (type(old).from_pretrained(tmp_path / "after") for _ in range(2))
    fault = load(name)
    assert fault.update is not None
    fault.update(broken.requires_grad_(False), tmp_path / "before")
    for (part, was), to, got in zip(
        old.named_parameters(), new.parameters(), broken.parameters(), strict=True
    ):
        mean = (was + to) / 2
        dropped = was if part.endswith("o_proj.weight") else to
        torch.testing.assert_close(got, dropped if low_rank else mean)


def test_rows_exchange_what_both_have() -> None:
    rows = Rows.build(
        [[5, 6, 7, 8], [5, 6, 4], [5, 3]],
        [1, 1, 1],
        [[False, True, True, True], [False, True, True], [False, True]],
    )
    logp = [np.nan, -0.1, -0.2, -0.3, np.nan, -0.4, -0.5, np.nan, -0.6]
    capture = Capture(rows, np.array(logp, np.float32))
    rewrite = load("rows-exchanged").rewrite
    assert rewrite is not None
    # The third row has no partner.
    assert rewrite(capture, 1.0).logp[rows.sampled].tolist() == pytest.approx(
        [-0.4, -0.5, -0.3, -0.1, -0.2, -0.6]
    )
