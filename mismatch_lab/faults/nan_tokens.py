"""Single tokens without a log-prob: in the trainer's record, or in the engine's answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import some_tokens


def rewrite(capture: Capture, strength: float) -> Capture:
    """A share of the sampled tokens, at least one, has no log-prob."""
    logp = capture.logp.copy()
    logp[some_tokens(capture, strength)] = np.nan
    return replace(capture, logp=logp)


FAULT = Fault(
    id="nan-tokens",
    about="log-probs of single tokens NaN in the trainer",
    causes=("missing-logprobs",),
    family="tokens",
    side="train",
    kind="capture",
    severities={"plain": 0.05, "medium": 0.01, "slight": 0.001},
    rewrite=rewrite,
    target="train",
)

ENGINE_FAULT = replace(
    FAULT,
    id="engine-nan-tokens",
    about="log-probs of single tokens missing in what the engine returns",
    side="infer",
    target="decode",
)
