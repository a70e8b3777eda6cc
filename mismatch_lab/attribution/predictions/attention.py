"""Defects of attention, positions and what the cache holds."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis, Search
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


def _searched(hypothesis: Hypothesis, search: Search) -> Hypothesis:
    from dataclasses import replace

    return replace(hypothesis, search=search, fitted=1)


def sinks(clues: Clues) -> list[Hypothesis]:
    """Sinks take no weight."""
    if not clues.has_tensor("sinks"):
        return []
    label = "attention sinks take no weight"
    return [_in_attention("attention-sinks-dropped", label, "drop_sinks")]


def sliding_window(clues: Clues) -> list[Hypothesis]:
    """Another width, or none."""
    width = clues.config.get("sliding_window")
    if not isinstance(width, int) or clues.config.get("use_sliding_window") is False:
        return []
    layer = clues.first_layer("sliding_attention")
    # A window that is wrong in decoding alone is the cache's, not the model's.
    cause = "decode-prefill-divergence" if clues.suspect == "decode" else "sliding-window"
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
    return [*exact, _searched(fitted, Search(tuple(map(float, others)), "integer"))]


def attention_softcap(clues: Clues) -> list[Hypothesis]:
    """The tanh cap on attention scores dropped."""
    cap = clues.config.get("attn_logit_softcapping")
    if not cap:
        return []
    cause, name = "attention-softcap", "attention_softcap"
    other = _in_attention(cause, "another cap on attention scores", name)
    grid = tuple(float(cap) * factor for factor in (0.5, 0.8, 1.25, 2.0, 4.0))
    return [
        _in_attention(cause, "the cap on attention scores is dropped", name, 0.0),
        _searched(other, Search(grid, "log")),
    ]


def attention_scale(clues: Clues) -> list[Hypothesis]:
    """Scores times a constant. Where whole heads turn, a rotary embedding's attention factor does
    the same: both are shown then, and experiments on the side decide.
    """
    hypothesis = _in_attention(
        "attention-scale", "attention scores times a constant", "attention_scale"
    )
    return [_searched(hypothesis, Search(SCALES, "log"))]


def rope_precision(clues: Clues) -> list[Hypothesis]:
    """Rotary frequencies or tables in bfloat16."""
    parts = {"inv_freq_dtype": "rotary frequencies", "rope_dtype": "rotary tables"}
    return [
        _in_attention("rope-precision", f"{part} rounded to {dtype}", name, dtype)
        for name, part in parts.items()
        for dtype in COARSE
    ]


def rope_theta(clues: Clues) -> list[Hypothesis]:
    """Another base of the rotary frequencies."""
    hypothesis = _in_attention("rope-theta", "rotary base times a constant", "rope_theta")
    return [_searched(hypothesis, Search(FACTORS, "log"))]


def rope_scaling(clues: Clues) -> list[Hypothesis]:
    """The scaling of long contexts lost, or another factor in it."""
    cause, kind = "rope-scaling", _rope_type(clues)
    if kind == "default":
        return []
    lost = _in_attention(cause, "the rotary scaling is lost", "rope_default")
    factor = _in_attention(cause, "another scaling factor", "rope_factor")
    found = [lost, _searched(factor, Search((0.125, 0.25, 0.5, 2.0, 4.0, 8.0), "log"))]
    if kind in WITH_FACTOR:
        label = "queries and keys times a constant (YaRN's mscale)"
        scale = _in_attention(cause, label, "rope_attention_factor")
        found.append(_searched(scale, Search((0.7, 0.85, 0.98, 1.02, 1.1, 1.2, 1.4), "log")))
    return found


def _rope_type(clues: Clues) -> str:
    rope = clues.config.get("rope_parameters") or clues.config.get("rope_scaling") or {}
    return str(rope.get("rope_type", rope.get("type", "default")))


def kv_cache(clues: Clues) -> list[Hypothesis]:
    """Keys and values kept in eight bits. Engines may read them back while re-scoring too."""
    if clues.suspect == "train":
        return []
    kinds = (
        *(f"{kind}{how}" for kind in ("float8_e4m3fn", "float8_e5m2") for how in CUT),
        *(f"{kind}{how}" for kind in ("int8", "int4") for how in (":scaled", ":per_token")),
        "float8_e4m3fn:per_token",
        "bfloat16",
        "float16",
    )
    return [
        _in_attention("kv-cache-quantisation", f"keys and values kept as {kind}", "kv_dtype", kind)
        for kind in kinds
    ]
