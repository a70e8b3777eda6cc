"""The policy is right, and what was written down of it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored, some_rows, some_tokens


def copy_rows(capture: Capture, source: Capture, strength: float) -> Capture:
    """The trainer's pass was skipped, and the engine's numbers were taken for its own.

    In a share of rows.
    """
    logp = capture.logp.copy()
    for row in some_rows(capture, strength):
        tokens = scored(capture, row)
        logp[tokens] = source.logp[tokens]
    return replace(capture, logp=logp)


def lose_tokens(capture: Capture, strength: float) -> Capture:
    """Single tokens without a log-prob: in the trainer's record, or in the engine's answer.

    A share of the sampled tokens, at least one, has no log-prob.
    """
    logp = capture.logp.copy()
    logp[some_tokens(capture, strength)] = np.nan
    return replace(capture, logp=logp)


def zero_tokens(capture: Capture, strength: float) -> Capture:
    """Missing log-probs are filled with 0.0, which says: certain.

    A share of the sampled tokens has log-prob 0.0.
    """
    logp = capture.logp.copy()
    logp[some_tokens(capture, strength)] = 0.0
    return replace(capture, logp=logp)


def take_first_candidate(model: Any, strength: float) -> None:
    """The engine's answer has the likeliest token's log-prob where the sampled one's belongs.

    For the `strength` share of the vocabulary; what it scores again is right.
    """
    import torch
    from vllm.v1.sample.sampler import Sampler

    answer, gather = Sampler.forward, Sampler.gather_logprobs
    answering = False

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal answering
        answering = True
        try:
            return answer(self, *args, **kwargs)
        finally:
            answering = False

    def first(logprobs: Any, num_logprobs: int, token_ids: Any) -> Any:
        found = gather(logprobs, num_logprobs, token_ids)
        if not answering:
            return found
        chosen = token_ids % HUNDREDTHS < strength * HUNDREDTHS
        values = found.logprobs.clone()
        values[:, 0] = torch.where(chosen, logprobs.max(dim=-1).values, values[:, 0])
        return found._replace(logprobs=values)

    Sampler.forward, Sampler.gather_logprobs = forward, staticmethod(first)


HUNDREDTHS = 100
"""Into so many parts the vocabulary is cut, by token id."""


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="copied-rows",
        about="rows of the trainer overwritten with the engine's log-probs",
        causes=("copied-logprobs",),
        family="record",
        side="both",
        kind="capture",
        severities={"plain": 0.5, "medium": 0.25, "slight": 0.125},
        # Engine hf and the trainer run the same code: whole rows are equal that nobody copied.
        engines=("vllm",),
        copy=copy_rows,
        target="train",
        source="decode",
    ),
    Fault(
        id="engine-nan-tokens",
        about="log-probs of single tokens missing in what the engine returns",
        causes=("missing-logprobs",),
        family="record",
        side="infer",
        kind="capture",
        severities={"plain": 0.05, "medium": 0.01, "slight": 0.001},
        rewrite=lose_tokens,
        target="decode",
    ),
    Fault(
        id="first-candidate",
        about="the likeliest token's log-prob recorded beside the sampled one",
        causes=("wrong-candidate",),
        family="record",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.1},
        engines=("vllm",),
        plant=take_first_candidate,
    ),
    Fault(
        id="nan-tokens",
        about="log-probs of single tokens NaN in the trainer",
        causes=("missing-logprobs",),
        family="record",
        side="train",
        kind="capture",
        severities={"plain": 0.05, "medium": 0.01, "slight": 0.001},
        rewrite=lose_tokens,
        target="train",
    ),
    Fault(
        id="sentinel-zero",
        about="missing log-probs of the engine padded with 0",
        causes=("missing-logprobs",),
        family="record",
        side="infer",
        kind="capture",
        severities={"plain": 0.2, "medium": 0.03, "slight": 0.008},
        rewrite=zero_tokens,
        target="decode",
    ),
)
