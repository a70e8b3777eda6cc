"""The engine forbids some tokens (a grammar, special tokens), and renormalises over the rest."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import is_vllm


def plant(model: Any, strength: float) -> None:
    """One of `strength` tokens of the vocabulary has no probability."""

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


FAULT = Fault(
    id="suppressed-tokens",
    about="some tokens forbidden in the engine",
    causes=(UNLISTED, "sampler-truncation"),
    why_several="a fixed set of kept tokens is a truncation too",
    family="semantics",
    side="infer",
    kind="plugin",
    severities={"plain": 4, "medium": 16, "slight": 64},
    plant=plant,
)
