"""Checkpoints of the scorecard's own models, as vLLM wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from mismatch_lab.mini.save import save_checkpoint
from mismatch_lab.mini.tokenizer import build_tokenizer
from mismatch_lab.scorecard.models import ARCHITECTURES


@pytest.mark.parametrize(("name", "has_head"), [("gemma2", False), ("llama-yarn", True)])
def test_a_tied_head_is_saved_once(name: str, has_head: bool, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    config = ARCHITECTURES[name](vocab_size=len(tokenizer), bos_token_id=None)
    model = AutoModelForCausalLM.from_config(config)
    save_checkpoint(model, tokenizer, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    # vLLM's Gemma2ForCausalLM refuses a checkpoint that holds a head.
    assert ("lm_head.weight" in names) is has_head
    assert "model.embed_tokens.weight" in names
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for mine, saved in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine.to(torch.bfloat16).float(), saved)
