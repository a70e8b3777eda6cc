"""Runs of the whole tool with the real engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mismatch_lab.cli.app import app
from mismatch_lab.executors.forked import forked_workers


@pytest.fixture(scope="session")
def fork_server() -> Iterator[None]:
    """One for all diagnoses of this process: each of its own would import torch anew."""
    with forked_workers(at_once=True):
        yield


@pytest.fixture
def diagnose(tmp_path: Path, fork_server: None) -> Callable[..., dict[str, Any]]:
    """Run `mismatch-lab diagnose`; its findings, with the run folder under `out`.

    The search for a cause, the longest part of a mismatch, goes on for `budget_s`.
    """

    def run(*options: str, budget_s: int = 0) -> dict[str, Any]:
        out = tmp_path / "run"
        asked = [*options, "--budget", str(budget_s), "--out", str(out), "--json"]
        done = CliRunner().invoke(app, ["diagnose", *asked])
        assert done.exit_code == 0, f"{done.exception!r}\n{done.stderr[-3000:]}"
        findings: dict[str, Any] = json.loads(done.stdout)
        assert (out / "report.html").stat().st_size > 50_000
        return findings | {"out": out}

    return run


SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.12,  # wide enough apart for peaked distributions
}


def save_random(folder: Path, config_kind: Any, seed: int, **more: Any) -> Path:
    """A small checkpoint of random weights, with the embedded model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mismatch_lab.mini import checkpoint_dir

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    config = config_kind(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **SMALL,
        **more,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if config.model_type == "gemma2" and "norm" in name:
            parameter.data.normal_(0, 0.2)  # Gemma's norms scale by one plus this
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-MoE."""
    from transformers import Qwen3MoeConfig

    experts = {"moe_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2}
    folder = tmp_path_factory.mktemp("qwen3-moe")
    return save_random(folder, Qwen3MoeConfig, 3, norm_topk_prob=True, **experts)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama."""
    from transformers import LlamaConfig

    return save_random(tmp_path_factory.mktemp("llama"), LlamaConfig, 5)


@pytest.fixture(scope="session")
def tied_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2: biases on queries, keys and values, and a head that is the embedding."""
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("qwen2")
    return save_random(folder, Qwen2Config, 7, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def glm4_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLM-4 MoE, whose routers choose by biases, in float32 as in the published ones."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Glm4MoeConfig

    generator = torch.Generator().manual_seed(9)
    experts = {"moe_intermediate_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2}
    layers = {"first_k_dense_replace": 1, "n_shared_experts": 1, "use_qk_norm": True}
    folder = tmp_path_factory.mktemp("glm4-moe")
    save_random(folder, Glm4MoeConfig, 9, n_group=1, topk_group=1, **experts, **layers)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if n.endswith("e_score_correction_bias")]:
        tensors[name] = torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma-2: softcaps, and a scale that vLLM applies outside of the embedding."""
    from transformers import Gemma2Config

    folder = tmp_path_factory.mktemp("gemma-2")
    return save_random(folder, Gemma2Config, 5, query_pre_attn_scalar=32, sliding_window=32)


@pytest.fixture(scope="session")
def phi3_long_rope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3 with other rotary factors for contexts of more than 64 tokens."""
    from transformers import Phi3Config

    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 16,
        "long_factor": [4.0] * 16,
        "original_max_position_embeddings": 64,
    }
    folder = tmp_path_factory.mktemp("phi-3")
    return save_random(
        folder, Phi3Config, 7, rope_parameters=rope, original_max_position_embeddings=64
    )


@pytest.fixture(scope="session")
def large_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama over 49,152 tokens, as large a vocabulary as SmolLM2's, and peaked."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from mismatch_lab.mini import checkpoint_dir

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    config = LlamaConfig(
        vocab_size=49_152,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
        **SMALL | {"num_hidden_layers": 2},
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    # Logits with a deviation of 7, where 4.6 would be flat: the last norm leaves unit states.
    model.lm_head.weight.data.normal_(0, 7 / config.hidden_size**0.5)
    folder = tmp_path_factory.mktemp("large-vocabulary")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
