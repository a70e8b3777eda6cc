"""Logits biased, and log-probs paired with other rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.rows import scored, some_rows


def bias_eos(model: Any, strength: float) -> None:
    """The engine biases the end-of-sequence token, a length control that the trainer does not know.

    `strength` is added to the logit of every end-of-sequence token.
    """
    ends = model.config.eos_token_id

    def bias(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits.clone()
        output.logits[..., ends] += strength
        return output

    model.register_forward_hook(bias)


def exchange_rows(capture: Capture, strength: float) -> Capture:
    """The engine's glue takes log-probs in the order in which requests end, not in the rows'.

    `strength` of the rows, two by two, hold each other's values as far as these go.
    """
    logp = capture.logp.copy()
    rows = some_rows(capture, max(strength, 2 / capture.rows.n_rows))
    for one, other in zip(rows[::2], rows[1::2], strict=False):
        mine, theirs = scored(capture, one), scored(capture, other)
        both = min(len(mine), len(theirs))
        logp[mine[:both]] = capture.logp[theirs[:both]]
        logp[theirs[:both]] = capture.logp[mine[:both]]
    return replace(capture, logp=logp)


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="eos-bias",
        about="logit of the end-of-sequence token biased in the engine",
        causes=(UNLISTED, "sampling-penalties"),
        why_several="a bias against one token is a penalty, if none on what was said before",
        family="semantics",
        side="infer",
        kind="plugin",
        severities={"plain": -12.0, "medium": -8.0, "slight": -6.0},
        engines=("hf",),
        plant=bias_eos,
    ),
    Fault(
        id="rows-exchanged",
        about="log-probs of some answers of the engine paired with other answers",
        causes=(UNLISTED,),
        family="tokens",
        side="infer",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.25, "slight": 0.05},
        rewrite=exchange_rows,
        target="decode",
    ),
)
