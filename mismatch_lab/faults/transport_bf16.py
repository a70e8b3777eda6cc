"""Log-probs travel from sampler to trainer in fewer bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.faults.base import Fault


def rewrite(capture: Capture, strength: str) -> Capture:
    """The log-probs as the dtype holds them."""
    return replace(capture, logp=narrowed(capture.logp, strength))


def narrowed(logp: Float32, dtype: str) -> Float32:
    """Round to nearest (even) in bfloat16, or to so many decimals of a JSON (`decimals-3`)."""
    if dtype.startswith("decimals-"):
        return np.round(logp, int(dtype.removeprefix("decimals-")))
    bits = logp.view(np.uint32)
    even = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    kept = (even & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(logp), logp, kept).astype(np.float32)


FAULT = Fault(
    id="transport-bf16",
    about="the engine's log-probs stored in bf16, or with few decimals, on their way",
    causes=("logprob-precision",),
    family="precision",
    side="sync",
    kind="capture",
    severities={"plain": "decimals-2", "medium": "bfloat16", "slight": "decimals-3"},
    rewrite=rewrite,
    target="decode",
)
