"""Two ranks publish the whole checkpoint that one of them has read, buffers too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("publish_on_ranks.py")
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


def test_buffers_of_the_checkpoint_are_published_by_several_ranks(tmp_path: Path) -> None:
    config = Glm4MoeConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    )
    torch.manual_seed(0)
    model = Glm4MoeForCausalLM(config).bfloat16()
    dict(model.named_buffers())[BIAS].data = torch.randn(4)
    model.save_pretrained(tmp_path / "model")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(tmp_path / "model"), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    source, made = (load_file(tmp_path / n / "model.safetensors") for n in ("model", "made"))
    assert made.keys() == source.keys()
    assert made[BIAS].dtype == torch.float32
    assert made[BIAS].abs().min() > 0
    for name, tensor in source.items():
        assert torch.equal(made[name], tensor), name
