"""What an architecture computes beyond what its config.json says, a row each.

A row is written from the model's paper, its authors' own code or its model card, not from an
engine's or a trainer's implementation. Fields that every architecture shares with Llama are left
at their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mismatch_lab.errors import NotDefinedError

Config = Mapping[str, Any]

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Recipe:
    """One architecture."""

    source: str
    """Where it is defined."""
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    """Added to the weight of every norm (Gemma stores weights less 1)."""
    order: Literal["pre", "post", "both", "parallel"] = "pre"
    """Where norms stand: before attention and MLP; after them, before the residual is added; on
    both sides; or once before both, which then run side by side."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Names of a layer's norms in the order they run."""
    qk_norm: Literal["none", "head", "whole", "heads"] = "none"
    """Of queries and keys: over each head with one weight for all; over all heads together; or over
    each head with a weight of its own."""
    pairs: Literal["halves", "neighbours"] = "halves"
    """Which two entries of a head turn together: i and i + d/2, or 2i and 2i + 1."""
    rotary_layers: Literal["all", "sliding", "listed"] = "all"
    """`sliding`: layers with full attention have no positions; `listed`: `no_rope_layers` says."""
    windows: Literal["none", "all", "listed"] = "none"
    """Whether `sliding_window` holds on every layer, or where `layer_types` says so."""
    disputed_window: str = ""
    """Why nobody can tell from config.json what its `sliding_window` counts."""
    full_every: int = 0
    """Without `layer_types`: every so many layers one has full attention, the others a window."""
    attention_scale: str = ""
    """Config entry in place of head_dim: `NAME` as a factor, `1/sqrt(NAME)` as Gemma has it."""
    attention_softcap: str = ""
    sinks: bool = False
    fused_attention: str = ""
    """Name of the one matrix that holds those of queries, keys and values, one after another."""
    mlp: Literal["gated", "fused", "plain"] = "gated"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    activation: str = "hidden_act"
    """Config entry."""
    experts: Literal["", "softmax", "softmax-of-chosen", "sigmoid"] = ""
    """How router logits become weights: a softmax over all, over the chosen ones, or a sigmoid."""
    router: str = "gate"
    expert_counts: tuple[str, str] = ("num_experts", "num_experts_per_tok")
    """Config entries: how many there are (transformers renames it `num_local_experts`), how many
    each token gets."""
    renormalise: str | bool = True
    """Whether the weights of the chosen ones are made to sum to 1: yes, no, or the config entry."""
    expert_names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    """In checkpoints that store experts one by one."""
    shared_experts: str = ""
    """Module of the experts that every token gets."""
    dense_until: str = ""
    """Config entry: so many first layers have a plain MLP in place of experts."""
    embedding_scale: str = ""
    """Config entry, or `sqrt(hidden_size)`."""
    residual_scale: str = ""
    logit_scale: str = ""
    """Config entry that logits are multiplied by, or `1/NAME`."""
    logit_softcap: str = ""


_GEMMA = "Gemma 2, arXiv:2408.00118; google-deepmind/gemma"
_BOTH_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_LLAMA = "Llama 2, arXiv:2307.09288"
_QWEN_MOE = "Qwen3, arXiv:2505.09388"

RECIPES: dict[str, Recipe] = {
    "llama": Recipe(_LLAMA),
    "mistral": Recipe("Mistral 7B, arXiv:2310.06825", windows="all"),
    "qwen2": Recipe("Qwen2, arXiv:2407.10671", windows="listed"),
    "qwen3": Recipe(_QWEN_MOE, qk_norm="head", windows="listed"),
    "seed_oss": Recipe("ByteDance-Seed/Seed-OSS-36B-Instruct"),
    "smollm3": Recipe("HuggingFaceTB/SmolLM3-3B", rotary_layers="listed"),
    "ernie4_5": Recipe("baidu/ERNIE-4.5", pairs="neighbours"),
    "phi3": Recipe(
        "Phi-3, arXiv:2404.14219",
        fused_attention="qkv_proj",
        mlp="fused",
        mlp_names=("gate_up_proj", "down_proj"),
        windows="all",
    ),
    "gemma": Recipe(
        "Gemma, arXiv:2403.08295", norm_offset=1.0, embedding_scale="sqrt(hidden_size)"
    ),
    "gemma2": Recipe(
        _GEMMA,
        norm_offset=1.0,
        order="both",
        norms=_BOTH_NORMS,
        windows="listed",
        full_every=2,
        attention_scale="1/sqrt(query_pre_attn_scalar)",
        attention_softcap="attn_logit_softcapping",
        activation="hidden_activation",
        embedding_scale="sqrt(hidden_size)",
        logit_softcap="final_logit_softcapping",
    ),
    "gemma3_text": Recipe(
        "Gemma 3, arXiv:2503.19786",
        norm_offset=1.0,
        order="both",
        norms=_BOTH_NORMS,
        qk_norm="head",
        windows="listed",
        full_every=6,
        attention_scale="1/sqrt(query_pre_attn_scalar)",
        activation="hidden_activation",
        embedding_scale="sqrt(hidden_size)",
    ),
    "olmo2": Recipe(
        "OLMo 2, arXiv:2501.00656",
        order="post",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        qk_norm="whole",
    ),
    "olmo3": Recipe(
        "OLMo 3, arXiv:2512.13961",
        order="post",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        qk_norm="whole",
        windows="listed",
        full_every=4,
    ),
    "exaone4": Recipe(
        "EXAONE 4.0, arXiv:2507.11407",
        order="post",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        qk_norm="head",
        windows="listed",
        rotary_layers="sliding",
    ),
    "granite": Recipe(
        "ibm-granite/granite-3.0; muP scaling, arXiv:2408.13359",
        attention_scale="attention_multiplier",
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        logit_scale="1/logits_scaling",
    ),
    "cohere": Recipe(
        "CohereForAI/c4ai-command-r-v01",
        norm="layer",
        order="parallel",
        norms=("input_layernorm",),
        qk_norm="heads",
        pairs="neighbours",
        logit_scale="logit_scale",
    ),
    "cohere2": Recipe(
        "CohereForAI/c4ai-command-r7b-12-2024",
        norm="layer",
        order="parallel",
        norms=("input_layernorm",),
        pairs="neighbours",
        windows="listed",
        disputed_window="vLLM's Cohere 2 lets a query see sliding_window keys beside its own, and "
        "says that the weights were trained so; transformers' lets it see that many with its own.",
        full_every=4,
        rotary_layers="sliding",
        logit_scale="logit_scale",
    ),
    "glm4": Recipe(
        "THUDM/GLM-4-0414",
        order="both",
        norms=(
            "input_layernorm",
            "post_self_attn_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ),
        pairs="neighbours",
        mlp="fused",
        mlp_names=("gate_up_proj", "down_proj"),
    ),
    "starcoder2": Recipe(
        "StarCoder 2, arXiv:2402.19173",
        norm="layer",
        windows="all",
        mlp="plain",
        mlp_names=("c_fc", "c_proj"),
    ),
    "nemotron": Recipe(
        "Nemotron-4, arXiv:2402.16819",
        norm="layer",
        norm_offset=1.0,
        mlp="plain",
        mlp_names=("up_proj", "down_proj"),
    ),
    "apertus": Recipe(
        "Apertus, arXiv:2509.14233; xIELU, arXiv:2411.13010",
        norms=("attention_layernorm", "feedforward_layernorm"),
        qk_norm="head",
        mlp="plain",
        mlp_names=("up_proj", "down_proj"),
    ),
    "gpt_oss": Recipe(
        "gpt-oss, arXiv:2508.10925; openai/gpt-oss",
        windows="listed",
        full_every=2,
        sinks=True,
        experts="softmax-of-chosen",
        router="router",
        expert_counts=("num_local_experts", "num_experts_per_tok"),
    ),
    "mixtral": Recipe(
        "Mixtral of Experts, arXiv:2401.04088",
        windows="all",
        experts="softmax",
        expert_counts=("num_local_experts", "num_experts_per_tok"),
        expert_names=("w1", "w3", "w2"),
    ),
    "qwen3_moe": Recipe(
        _QWEN_MOE,
        qk_norm="head",
        windows="listed",
        experts="softmax",
        renormalise="norm_topk_prob",
    ),
    "olmoe": Recipe(
        "OLMoE, arXiv:2409.02060",
        qk_norm="whole",
        experts="softmax",
        renormalise="norm_topk_prob",
    ),
    "glm4_moe": Recipe(
        "GLM-4.5, arXiv:2508.06471; routing of DeepSeek-V3, arXiv:2412.19437",
        qk_norm="head",
        experts="sigmoid",
        expert_counts=("n_routed_experts", "num_experts_per_tok"),
        renormalise="norm_topk_prob",
        shared_experts="shared_experts",
        dense_until="first_k_dense_replace",
    ),
}
"""model_type -> how it computes. Another architecture is one row, and a case of the tests."""


def recipe_for(config: Config) -> Recipe:
    """The recipe of a checkpoint.

    Raises:
        NotDefinedError: the architecture has none.
    """
    kind = str(config.get("model_type"))
    if kind not in RECIPES:
        raise NotDefinedError(
            f"Architecture {kind} has no definition here.",
            f"Defined: {', '.join(sorted(RECIPES))}.",
        )
    return RECIPES[kind]


def entry(config: Config, name: str, default: Any = None) -> Any:
    """An entry of config.json.

    Raises:
        NotDefinedError: it is not there, and there is no default.
    """
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise NotDefinedError(f"config.json has no {name}, and its definition needs it.")
    return value


def scale_of(config: Config, expression: str, default: float = 1.0) -> float:
    """The number that a recipe's expression stands for: `NAME`, `1/NAME`, `sqrt(NAME)`,
    `1/sqrt(NAME)`; `default` where it is empty.
    """
    if not expression:
        return default
    inverse = expression.startswith("1/")
    name = expression.removeprefix("1/")
    root = name.startswith("sqrt(")
    value = float(entry(config, name.removeprefix("sqrt(").removesuffix(")")))
    value = value**0.5 if root else value
    return 1.0 / value if inverse else value


def layer_windows(config: Config, recipe: Recipe) -> list[int | None]:
    """Of each layer, how many keys a query sees, its own included; None is all before it.

    A window of w is w keys: position i sees i - w + 1 to i (so do openai/gpt-oss and
    google-deepmind/gemma).

    Raises:
        NotDefinedError: it is not known what the window counts.
    """
    count = int(entry(config, "num_hidden_layers"))
    width = config.get("sliding_window")
    if recipe.windows == "none" or width is None or config.get("use_sliding_window") is False:
        return [None] * count
    if recipe.disputed_window and SLIDING in layer_kinds(config, recipe):
        raise NotDefinedError(recipe.disputed_window)
    if recipe.windows == "all":
        return [int(width)] * count
    return [int(width) if kind == SLIDING else None for kind in layer_kinds(config, recipe)]


def layer_kinds(config: Config, recipe: Recipe) -> list[str]:
    """`full_attention` or `sliding_attention` of each layer."""
    count = int(entry(config, "num_hidden_layers"))
    listed = config.get("layer_types")
    if listed is not None:
        return list(listed)
    if recipe.full_every:
        return [SLIDING if (i + 1) % recipe.full_every else FULL for i in range(count)]
    return [FULL] * count


def rotary_layers(config: Config, recipe: Recipe) -> list[bool]:
    """Of each layer, whether its queries and keys are turned by their positions."""
    kinds = layer_kinds(config, recipe)
    if recipe.rotary_layers == "sliding":
        windowed = config.get("sliding_window") is not None
        return [kind == SLIDING or not windowed for kind in kinds]
    if recipe.rotary_layers == "listed":
        return [bool(rotary) for rotary in entry(config, "no_rope_layers", [1] * len(kinds))]
    return [True] * len(kinds)
