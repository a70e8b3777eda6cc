"""Defects of attention, positions and what the cache holds; of routers and experts."""

from __future__ import annotations

from mismatch_lab.attribution.hypotheses import Features, FreeNumber, Hypothesis
from mismatch_lab.schema import Alteration, OptionValue

ATTENTION = "self_attn"
CUT = ("", ":truncated", ":scaled")
"""Rounded to the nearest, cut off towards zero (vLLM 0.32 on a CPU), scaled first."""

COARSE = ("bfloat16", "float16", "float8_e4m3fn")
SCALES = (0.25, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4, 2.0, 4.0)
WITH_FACTOR = ("yarn", "longrope", "su")
"""Rotary scalings that have an attention factor: elsewhere nothing scales queries and keys."""
FACTORS = (0.01, 0.1, 0.5, 0.8, 0.97, 1.03, 1.25, 2.0, 10.0, 100.0)


def _in_attention(
    cause: str, label: str, name: str, value: OptionValue | None = None, layer: int = 0
) -> Hypothesis:
    return Hypothesis(
        cause,
        label,
        model=(Alteration(name=name, value=value),),
        location=f"model.layers.{layer}.{ATTENTION}",
        part=ATTENTION,
    )


def _searched(hypothesis: Hypothesis, search: FreeNumber) -> Hypothesis:
    from dataclasses import replace

    return replace(hypothesis, search=search, fitted=1)


def sinks(features: Features) -> list[Hypothesis]:
    """Sinks take no weight."""
    if not features.has_tensor("sinks"):
        return []
    label = "attention sinks take no weight"
    return [_in_attention("attention-sinks-dropped", label, "drop_sinks")]


def sliding_window(features: Features) -> list[Hypothesis]:
    """Another width, or none."""
    width = features.config.get("sliding_window")
    if not isinstance(width, int) or features.config.get("use_sliding_window") is False:
        return []
    layer = features.first_layer("sliding_attention")
    # A window that is wrong in decoding alone is the cache's, not the model's.
    cause = "decode-prefill-divergence" if features.suspect == "decode" else "sliding-window"
    exact = [
        _in_attention(cause, label, "sliding_window", value, layer)
        for label, value in (
            ("the sliding window is ignored", 0),
            ("the sliding window is one key too wide", width + 1),
            ("the sliding window is one key too narrow", width - 1),
        )
    ]
    steps = (-16, -8, -4, -2, 2, 4, 8, 16)
    others = (*(width + s for s in steps if width + s > 1), width // 4, 2 * width, 4 * width)
    fitted = _in_attention(
        cause, "the sliding window has another width", "sliding_window", None, layer
    )
    return [*exact, _searched(fitted, FreeNumber(tuple(map(float, others)), "integer"))]


def attention_softcap(features: Features) -> list[Hypothesis]:
    """The tanh cap on attention scores dropped."""
    cap = features.config.get("attn_logit_softcapping")
    if not cap:
        return []
    cause, name = "attention-softcap", "attention_softcap"
    other = _in_attention(cause, "another cap on attention scores", name)
    grid = tuple(float(cap) * factor for factor in (0.5, 0.8, 1.25, 2.0, 4.0))
    return [
        _in_attention(cause, "the cap on attention scores is dropped", name, 0.0),
        _searched(other, FreeNumber(grid, "log")),
    ]


def attention_scale(features: Features) -> list[Hypothesis]:
    """Scores times a constant. Where whole heads turn, a rotary embedding's attention factor does
    the same: both are shown then, and experiments on the side decide.
    """
    hypothesis = _in_attention(
        "attention-scale", "attention scores times a constant", "attention_scale"
    )
    return [_searched(hypothesis, FreeNumber(SCALES, "log"))]


def rope_precision(features: Features) -> list[Hypothesis]:
    """Rotary frequencies or tables in bfloat16."""
    parts = {"inv_freq_dtype": "rotary frequencies", "rope_dtype": "rotary tables"}
    return [
        _in_attention("rope-precision", f"{part} rounded to {dtype}", name, dtype)
        for name, part in parts.items()
        for dtype in COARSE
    ]


def rope_theta(features: Features) -> list[Hypothesis]:
    """Another base of the rotary frequencies."""
    hypothesis = _in_attention("rope-theta", "rotary base times a constant", "rope_theta")
    return [_searched(hypothesis, FreeNumber(FACTORS, "log"))]


def rope_scaling(features: Features) -> list[Hypothesis]:
    """The scaling of long contexts lost, or another factor in it."""
    cause, kind = "rope-scaling", _rope_type(features)
    if kind == "default":
        return []
    lost = _in_attention(cause, "the rotary scaling is lost", "rope_default")
    factor = _in_attention(cause, "another scaling factor", "rope_factor")
    found = [lost, _searched(factor, FreeNumber((0.125, 0.25, 0.5, 2.0, 4.0, 8.0), "log"))]
    if kind in WITH_FACTOR:
        label = "queries and keys times a constant (YaRN's mscale)"
        scale = _in_attention(cause, label, "rope_attention_factor")
        found.append(_searched(scale, FreeNumber((0.7, 0.85, 0.98, 1.02, 1.1, 1.2, 1.4), "log")))
    return found


def _rope_type(features: Features) -> str:
    rope = features.config.get("rope_parameters") or features.config.get("rope_scaling") or {}
    return str(rope.get("rope_type", rope.get("type", "default")))


def kv_cache(features: Features) -> list[Hypothesis]:
    """Keys and values kept in eight bits. Engines may read them back while re-scoring too, and may
    not in the pass that computes them.
    """
    if features.suspect == "train":
        return []
    kinds = (
        *(f"{kind}{how}" for kind in ("float8_e4m3fn", "float8_e5m2") for how in CUT),
        *(f"{kind}{how}" for kind in ("int8", "int4") for how in (":scaled", ":per_token")),
        "float8_e4m3fn:per_token",
        "bfloat16",
        "float16",
    )
    cause, label = "kv-cache-quantisation", "keys and values kept as"
    found = [_in_attention(cause, f"{label} {kind}", "kv_dtype", kind) for kind in kinds]
    if features.of_sampling:
        exact = "exact in the pass that writes them"
        found += [
            _in_attention(cause, f"{label} {kind}, {exact}", "kv_read_back", kind) for kind in kinds
        ]
    return found


EXPERTS = "mlp"


def _in_experts(
    features: Features, cause: str, label: str, name: str, value: OptionValue | None = None
) -> list[Hypothesis]:
    if not features.is_moe:
        return []
    return [
        Hypothesis(
            cause,
            label,
            model=(Alteration(name=name, value=value),),
            location=f"model.layers.0.{EXPERTS}",
            part=EXPERTS,
        )
    ]


def renormalisation(features: Features) -> list[Hypothesis]:
    """Weights of the chosen experts: renormalised or not, or all times a constant."""
    cause = "router-renormalisation"
    found = _in_experts(
        features, cause, "weights of the chosen experts renormalised where they are not, or not "
        "where they are", "norm_topk",
    )  # fmt: skip
    for scaled in _in_experts(
        features, cause, "weights of the chosen experts times a constant", "routed_scale"
    ):
        from dataclasses import replace

        search = FreeNumber((0.5, 0.8, 1.25, 2.0, 2.5), "log")
        found.append(replace(scaled, search=search, fitted=1))
    return found


def router_bias(features: Features) -> list[Hypothesis]:
    """The router's bias missing."""
    return _in_experts(features, "router-bias", "the router's bias is missing", "router_bias_zero")


def expert_bias(features: Features) -> list[Hypothesis]:
    """The experts' biases missing."""
    return _in_experts(
        features, "expert-bias", "the experts' biases are missing", "expert_bias_zero"
    )


def expert_layout(features: Features) -> list[Hypothesis]:
    """Gate and up taken for each other, or their layout."""
    labels = {
        "swapped": "gate and up of the experts taken for each other",
        "split": "gate and up taken as halves",
        "interleaved": "gate and up taken as alternating columns",
    }
    return [
        h
        for value, label in labels.items()
        for h in _in_experts(features, "expert-layout", label, "expert_gate_up_order", value)
    ]
