"""Runs of the whole tool with the real engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 600


@pytest.fixture
def diagnose(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run `mismatch-lab diagnose` in a process; its findings, with the run folder under `out`."""

    def run(*options: str) -> dict[str, Any]:
        out = tmp_path / "run"
        command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", *options]
        done = subprocess.run(
            [*command, "--out", str(out), "--json"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        findings: dict[str, Any] = json.loads(done.stdout)
        assert (out / "report.html").stat().st_size > 50_000
        return findings | {"out": out}

    return run


@pytest.fixture(scope="session")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3-MoE with random weights, wide enough apart for peaked distributions."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

    from mismatch_lab.mini import checkpoint_dir

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        initializer_range=0.12,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("qwen3-moe")
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
