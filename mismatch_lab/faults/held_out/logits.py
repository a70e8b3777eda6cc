"""Logits and the log-probs made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import is_vllm
from mismatch_lab.faults.rows import scored


def clamp_logits(model: Any, strength: float) -> None:
    """The trainer clamps its logits, so that none of them overflows.

    To between -strength and strength.
    """

    def clamp(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits.clamp(-strength, strength)
        return output

    model.register_forward_hook(clamp)


def suppress_tokens(model: Any, strength: float) -> None:
    """The engine forbids some tokens (a grammar, special tokens), and renormalises over the rest.

    One of `strength` tokens of the vocabulary has no probability.
    """

    def forbid(logits: Any) -> Any:
        logits[..., 3 :: int(strength)] = float("-inf")
        return logits

    if is_vllm(model):
        compute = model.compute_logits
        model.compute_logits = lambda hidden: forbid(compute(hidden))
        return

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = forbid(output.logits.clone())
        return output

    model.register_forward_hook(hook)


def divide_again(model: Any, strength: float) -> None:
    """The trainer divides logits by the temperature that its model already divides by.

    Logits over the temperature, once more than is asked for.
    """

    def divide(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits / strength
        return output

    model.register_forward_hook(divide)


def at_temperature(strength: float) -> RunOptions:
    """Sampled at that temperature, which both sides know."""
    return RunOptions(sampling={"temperature": strength})


def repeat_at_chunks(capture: Capture, strength: float) -> Capture:
    """The engine's glue joins streamed chunks and repeats the last log-prob of each.

    The first token of every chunk of `strength` has the log-prob of the token before it.
    """
    logp = capture.logp.copy()
    for row in range(capture.rows.n_rows):
        tokens = scored(capture, row)
        starts = tokens[int(strength) :: int(strength)]
        logp[starts] = capture.logp[starts - 1]
    return replace(capture, logp=logp)


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="chunk-boundary",
        about="log-probs of the first token of each streamed chunk repeated",
        causes=(UNLISTED, "shift-by-one"),
        why_several="those tokens alone are shifted",
        family="tokens",
        side="infer",
        kind="capture",
        severities={"plain": 8, "medium": 16, "slight": 32},
        rewrite=repeat_at_chunks,
        target="decode",
    ),
    Fault(
        id="logits-clamp",
        about="logits of the trainer clamped",
        causes=(UNLISTED, "logit-softcap"),
        why_several="a clamp is a cap, if no soft one",
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 6.0, "medium": 9.0, "slight": 12.0},
        plant=clamp_logits,
    ),
    Fault(
        id="suppressed-tokens",
        about="some tokens forbidden in the engine",
        causes=(UNLISTED, "sampler-truncation"),
        why_several="a fixed set of kept tokens is a truncation too",
        family="semantics",
        side="infer",
        kind="plugin",
        severities={"plain": 4, "medium": 16, "slight": 64},
        plant=suppress_tokens,
    ),
    Fault(
        id="temperature-twice",
        about="temperature applied twice in the trainer",
        causes=("logit-scale", "raw-logprobs-temperature"),
        why_several="a factor on the logits is both",
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 0.6, "medium": 0.85, "slight": 0.98},
        plant=divide_again,
        options=at_temperature,
    ),
)
