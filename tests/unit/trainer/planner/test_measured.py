"""The plan against one update of the real policy: FSDP2, one rank, CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mismatch_lab.engines.chunked_logp import CHUNK_BYTES, FEWEST
from mismatch_lab.remedies.grouped_experts.function import ROWS
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.planner import device
from mismatch_lab.trainer.planner.activations import PIECE
from mismatch_lab.trainer.planner.measure import measure
from mismatch_lab.trainer.planner.plan import Machine, make_plan

TOLERANCE = 0.05
SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 32,
}  # fmt: skip
MOE = {"num_local_experts": 8, "num_experts_per_tok": 4}
FLASH = ("attention-sinks", "grouped-experts")

CASES = {
    "weights": ("gpt_oss", {"vocab_size": 512, "intermediate_size": 512}, 32, {}),
    "activations": ("gpt_oss", {"vocab_size": 512}, 160, {}),
    "fixes": (
        "gpt_oss", {"vocab_size": 512}, 128,
        {"fixes": FLASH, "dtype": "bfloat16", "optim.checkpoint_activations": True},
    ),
    "logits": ("llama", {"vocab_size": 8192}, 128, {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_an_update_is_the_planned_one(case: str, tmp_path: Path) -> None:
    family, sizes, tokens, settings = CASES[case]
    given = SIZES | (MOE if family == "gpt_oss" else {}) | sizes
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **given)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    run = read_config(
        None,
        {
            "model": str(tmp_path),
            "optim.micro_batch": 2,
            "rollout.context_length": tokens,
            **settings,
        },
    )
    plan = make_plan(run, Machine(device="cpu"))
    found = measure(run, str(tmp_path)).backward_gib
    print(f"{case}: plan / measured {plan.peak.total_gib / found:.4f}, {plan.peak.name}")
    assert plan.peak.total_gib == pytest.approx(found, rel=TOLERANCE), plan.peak


def test_constants_are_those_of_the_modules_that_need_torch() -> None:
    assert device.CHUNK_BYTES == CHUNK_BYTES
    assert (device.FEWEST_TOKENS, PIECE) == (FEWEST, ROWS)
