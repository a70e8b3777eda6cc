"""One part computed more coarsely than the rest."""

from __future__ import annotations

from mismatch_lab.attribution.hypotheses import (
    Features,
    FreeNumber,
    Hypothesis,
    RowChange,
    TokenChange,
)
from mismatch_lab.schema import Alteration

FORMATS = ("bfloat16", "float16")
FIRST_PRODUCT = "self_attn"
"""Of a layer, where something is multiplied first; its projections have other names elsewhere."""


def head(features: Features) -> list[Hypothesis]:
    """The head, or its logits, in bfloat16."""
    labels = {"head_dtype": "the head in", "logits_dtype": "logits stored as"}
    return [
        Hypothesis(
            "lm-head-precision",
            f"{label} {dtype}",
            model=(Alteration(name=name, value=dtype),),
            location="lm_head",
        )
        for name, label in labels.items()
        for dtype in FORMATS
    ]


def logprob(features: Features) -> list[Hypothesis]:
    """The log-softmax, or what becomes of its result."""
    cause = "logprob-precision"
    return [
        Hypothesis(cause, "log-probs sent as bfloat16", tokens=(TokenChange("through_bfloat16"),)),
        Hypothesis(cause, "log-probs sent as float16", tokens=(TokenChange("through_float16"),)),
        Hypothesis(
            cause,
            "log-probs written with few decimals",
            tokens=(TokenChange("decimals"),),
            search=FreeNumber((1.0, 2.0, 3.0, 4.0)),
        ),
        Hypothesis(
            cause, "log-softmax computed in bfloat16", rows=(RowChange("bfloat16_log_softmax"),)
        ),
    ]


def router(features: Features) -> list[Hypothesis]:
    """Router logits in bfloat16."""
    if not features.is_moe:
        return []
    return [
        Hypothesis(
            "router-precision",
            f"routers in {dtype}",
            model=(Alteration(name="router_dtype", value=dtype),),
            location="model.layers.0.mlp",
            part="mlp",
        )
        for dtype in FORMATS
    ]


def norm(features: Features) -> list[Hypothesis]:
    """RMSNorm in bfloat16."""
    return [
        Hypothesis(
            "norm-precision",
            f"norms in {dtype}",
            model=(Alteration(name="norm_dtype", value=dtype),),
            location="model.layers.0.input_layernorm",
            part="input_layernorm",
        )
        for dtype in FORMATS
    ]


def products(features: Features) -> list[Hypothesis]:
    """Operands of float32 products as TF32: in the kernels of attention and experts, which hand
    them to tensor cores as they are; in those of projections too, where they are Triton's (SGLang's
    deterministic mode); in all products, where torch allows it; or in projections, where torch
    allows it and attention and experts have exact kernels of their own.
    """
    if features.dtype != "float32":
        return []
    attention = Alteration(name="attention_products", value="tf32:cut")
    experts = Alteration(name="expert_products", value="tf32:cut")
    everything = Alteration(name="all_products", value="tf32")
    projections = Alteration(name="projection_products", value="tf32")
    cut = Alteration(name="projection_products", value="tf32:cut")
    suppositions: list[tuple[str, tuple[Alteration, ...], str | None]] = [
        ("attention and experts multiply in TF32", (attention, experts), "self_attn"),
        ("attention multiplies in TF32", (attention,), "self_attn"),
        ("experts multiply in TF32", (experts,), "mlp.experts"),
        ("every kernel multiplies in TF32", (cut, attention, experts), None),
        ("projections and attention multiply in TF32", (cut, attention), None),
        ("projections in a kernel that multiplies in TF32", (cut,), None),
        ("all products in TF32", (everything,), None),
        ("projections in TF32", (projections,), None),
    ]
    return [
        Hypothesis(
            "tf32-products",
            label,
            model=model,
            location=f"model.layers.0.{part or FIRST_PRODUCT}",
            part=part,
        )
        for label, model, part in suppositions
        if features.is_moe or experts not in model
    ]
