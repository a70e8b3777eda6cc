"""Healthy controls: differences that are no bug, so none may be named.

Declared one-step staleness is not among them: `diagnose --weights-before` says that there was an
update, not that the engine is meant to run without it. Old weights in the engine are what the fault
`stale-weights` plants, and naming them is right whether or not they were meant.
"""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.schema import OptionValue

MINI, LLAMA, QWEN, GEMMA = "mini-gpt-oss", "llama-yarn", "qwen3-moe", "gemma2"
ALL = (MINI, LLAMA, QWEN, GEMMA)


@dataclass(frozen=True)
class Control:
    """A healthy way to run a diagnosis."""

    about: str
    models: tuple[str, ...] = (MINI,)
    dtype: str = "bfloat16"
    probe: str | None = None
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    engine_args: tuple[tuple[str, OptionValue], ...] = ()
    trainer_args: tuple[tuple[str, OptionValue], ...] = ()
    trainer_plugin: str | None = None
    """A function of `scorecard.healthy`."""
    checkpoint_edit: str | None = None
    """A function of `scorecard.healthy`, for both sides alike."""
    update: float | None = None
    """Size of a weight update that reached the engine whole, as a share of each deviation."""
    vllm_only: bool = False


CONTROLS: dict[str, Control] = {
    "float32": Control("both sides in float32", ALL, dtype="float32"),
    "bfloat16": Control("both sides in bfloat16", ALL),
    "other-seed": Control("another seed of the sampling", seed=20261),
    "temperature": Control("temperature 0.7, known to both", (MINI, LLAMA), temperature=0.7),
    "longer-answers": Control("answers of up to 160 tokens", max_tokens=160),
    "multi-turn": Control("three turns, ids kept", probe="multi-turn"),
    "rotated-positions": Control(
        "the trainer counts positions from 37 on, which RoPE cannot see",
        (MINI, LLAMA),
        trainer_plugin="shift_positions",
    ),
    "sharpened": Control(
        "a policy with doubled logits, as late in training", (MINI, QWEN), checkpoint_edit="sharpen"
    ),
    "weight-update": Control("after an update that reached both sides", update=0.05),
    "two-ranks": Control("the trainer sharded over two ranks", trainer_args=(("world_size", 2),)),
    "micro-batch-1": Control("the trainer scores rows alone", trainer_args=(("micro_batch", 1),)),
    "float32-masters": Control(
        "the trainer holds its weights in float32 and computes in bfloat16",
        (MINI, GEMMA),
        trainer_args=(("master_dtype", "float32"), ("param_dtype", "bfloat16")),
    ),
    "eager-attention": Control(
        "the trainer's attention in plain torch",
        (LLAMA,),
        trainer_args=(("attn_implementation", "eager"),),
    ),
    "prefix-cache": Control(
        "the engine's prefix cache on, weights unchanged",
        engine_args=(("enable_prefix_caching", True),),
        vllm_only=True,
    ),
}
