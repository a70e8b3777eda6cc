"""One part computed more coarsely than the rest."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis, RowChange, TokenChange
from mismatch_lab.schema import Alteration

COARSE = "bfloat16"


def head(clues: Clues) -> list[Hypothesis]:
    """The head, or its logits, in bfloat16."""
    labels = {"head_dtype": "the head in bfloat16", "logits_dtype": "logits stored as bfloat16"}
    return [
        Hypothesis(
            "lm-head-precision",
            label,
            model=(Alteration(name=name, value=COARSE),),
            location="lm_head",
        )
        for name, label in labels.items()
    ]


def logprob(clues: Clues) -> list[Hypothesis]:
    """The log-softmax, or what becomes of its result."""
    cause = "logprob-precision"
    return [
        Hypothesis(
            cause, "log-probs sent as bfloat16", tokens=(TokenChange("through_bfloat16"),)
        ),
        Hypothesis(cause, "log-probs sent as float16", tokens=(TokenChange("through_float16"),)),
        Hypothesis(
            cause, "log-softmax computed in bfloat16", rows=(RowChange("bfloat16_log_softmax"),)
        ),
    ]


def router(clues: Clues) -> list[Hypothesis]:
    """Router logits in bfloat16."""
    if not clues.is_moe:
        return []
    change = Alteration(name="router_dtype", value=COARSE)
    return [
        Hypothesis(
            "router-precision",
            "routers in bfloat16",
            model=(change,),
            location="model.layers.0.mlp",
            part="mlp",
        )
    ]


def norm(clues: Clues) -> list[Hypothesis]:
    """RMSNorm in bfloat16."""
    change = Alteration(name="norm_dtype", value=COARSE)
    return [
        Hypothesis(
            "norm-precision",
            "norms in bfloat16",
            model=(change,),
            location="model.layers.0.input_layernorm",
            part="input_layernorm",
        )
    ]
