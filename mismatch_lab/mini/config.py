"""Architecture of mini-gpt-oss: every feature of GPT-OSS that engines get wrong, at small size."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GptOssConfig


def mini_config(*, vocab_size: int, pad_token_id: int, eos_token_id: int) -> "GptOssConfig":
    """The configuration; sizes are ones that vLLM's CPU kernels accept."""
    from transformers import GptOssConfig

    n_layers = 4
    return GptOssConfig(
        vocab_size=vocab_size,
        initializer_range=0.05,
        hidden_size=192,
        intermediate_size=128,
        num_hidden_layers=n_layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=8,
        num_experts_per_tok=2,
        # Ordinary prompts are longer than the window, so a wrong window shows on any of them.
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * (n_layers // 2),
        max_position_embeddings=1024,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 128,
        },
        tie_word_embeddings=False,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        bos_token_id=None,
    )
