"""What the trainer publishes is the whole checkpoint that it began with, buffers and dtypes too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, LlamaConfig

from mismatch_lab.errors import EngineError
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


def saved(folder: Path, config: Any, dtype: torch.dtype) -> str:
    """A random checkpoint; routers choose by biases that are no zeros, in float32 as real ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.data = torch.randn(buffer.shape)
    model.save_pretrained(folder)
    return str(folder)


def glm(folder: Path, dtype: torch.dtype = torch.bfloat16) -> str:
    config = Glm4MoeConfig(
        **SIZES,
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        n_shared_experts=1,
        use_qk_norm=True,
    )
    return saved(folder, config, dtype)


def published(model: str, dtype: str, folder: Path) -> dict[str, torch.Tensor]:
    policy = Policy(TrainConfig(model=model, dtype=dtype), model)
    policy.save_pretrained(folder, policy.weights())
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_biases_by_which_routers_choose_are_published(dtype: str, tmp_path: Path) -> None:
    source = load_file(Path(glm(tmp_path / "glm")) / "model.safetensors")
    assert source[BIAS].dtype == torch.float32
    made = published(str(tmp_path / "glm"), dtype, tmp_path / "made")
    assert made.keys() == source.keys()
    assert torch.equal(made[BIAS], source[BIAS])  # float32 in either run: it is not rounded
    for name, tensor in made.items():
        wanted = torch.float32 if name == BIAS or dtype == "float32" else torch.bfloat16
        assert tensor.dtype == wanted, name
        assert torch.equal(tensor.float(), source[name].float()), name


def test_what_the_checkpoint_has_wider_is_not_rounded(tmp_path: Path) -> None:
    model = saved(tmp_path / "llama", LlamaConfig(**SIZES), torch.float32)
    made = published(model, "bfloat16", tmp_path / "made")
    # The engine rounds what it holds in bfloat16, and keeps what it holds in float32.
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}


def test_a_tied_head_may_be_there_or_not(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    model = saved(tmp_path / "llama", config, torch.bfloat16)
    published(model, "bfloat16", tmp_path / "made")
    source = load_file(Path(model) / "model.safetensors")
    save_file(
        source | {"lm_head.weight": source["model.embed_tokens.weight"].clone()},
        Path(model) / "model.safetensors",
        metadata={"format": "pt"},
    )
    published(model, "bfloat16", tmp_path / "made-again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.norm.weight": None}, "missing: model.norm.weight"),
        ({"new": torch.ones(1)}, "not in the checkpoint: new"),
        ({"model.norm.weight": torch.ones(3)}, "of another shape: model.norm.weight"),
        ({BIAS: torch.ones(4).bfloat16()}, f"of another dtype: {BIAS}"),
    ],
)
def test_what_differs_is_named(
    change: dict[str, torch.Tensor | None], said: str, tmp_path: Path
) -> None:
    model = glm(tmp_path / "glm")
    policy = Policy(TrainConfig(model=model, dtype="bfloat16"), model)
    weights = policy.weights()
    for name, tensor in change.items():
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    with pytest.raises(EngineError, match=said):
        policy.save_pretrained(tmp_path / "made", weights)
