"""Weights that are averaged, rounded, reset, or arrive in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import head
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import old_parameters, put_back, read_tensors
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.rounding import scaled_rounded

DECAY = 0.5
"""Share of the weights before the update."""


def average_weights(model: Any, before: Path) -> None:
    """The weights published to the engine are a running average, not the current ones.

    Every tensor goes only a part of the update's way.
    """
    for name, old in old_parameters(model, before).items():
        current = model.get_parameter(name).data
        current.copy_(current.float().lerp(old.float(), DECAY))


DROPPED = "self_attn.o_proj.weight"


def drop_adapter_part(model: Any, before: Path) -> None:
    """The engine takes an adapter for queries, keys and values only, and ignores the rest of it.

    The output projections of attention are those of the base.
    """
    put_back(model, read_tensors(before, lambda name: name.endswith(DROPPED)).items())


def quantise_head(model: Any, strength: str) -> None:
    """The engine's head is quantised with one scale, though the rest of the model is not.

    The head multiplies with a rounded copy; a tied embedding stays as it is.
    """
    from torch.nn import functional

    output = model.get_output_embeddings()
    weight = output.weight.data
    copy = scaled_rounded(weight.float().flatten(), strength).view_as(weight).to(weight.dtype)

    def narrow(_module: Any, args: Any, _output: Any) -> Any:
        return functional.linear(args[0], copy)

    output.register_forward_hook(narrow)


SPECIAL_ROWS = slice(0, 6)
"""The special tokens of the scorecard's tokenizer: padding, end and four roles."""


def reset_special_rows(model: Any, strength: float) -> None:
    """Rows of the special tokens were set anew when the engine's embedding was resized.

    They go `strength` of the way to the mean row, where a resize sets new ones.
    """
    weight = model.get_input_embeddings().weight.data
    weight[SPECIAL_ROWS] = weight[SPECIAL_ROWS].lerp(weight.mean(0), strength)


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="adapter-part-dropped",
        about="adapter of the output projections ignored by the engine",
        causes=("stale-tensor", "adapter-not-delivered"),
        why_several="a part of an adapter that does not arrive leaves some tensors old",
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
        expected_location=first_layer("self_attn.o_proj"),
        engines=("hf",),
        update=drop_adapter_part,
        low_rank=True,
    ),
    Fault(
        id="averaged-weights",
        about="averaged weights published to the engine in place of the current ones",
        causes=(UNLISTED, "stale-weights"),
        why_several="an average over steps lags behind in every tensor, at no step's weights",
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.1, "medium": 0.02, "slight": 0.004},
        engines=("hf",),
        update=average_weights,
    ),
    Fault(
        id="lm-head-quantised",
        about="head of the engine quantised with one scale",
        causes=("weight-quantisation", "lm-head-precision"),
        why_several="a head that is quantised is a head in lower precision",
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
        expected_location=head,
        engines=("hf",),
        plant=quantise_head,
    ),
    Fault(
        id="special-rows-reset",
        about="embeddings of the special tokens set anew in the engine",
        causes=("stale-tensor", UNLISTED),
        why_several="some tensors hold other numbers, though no update left them out",
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.05},
        expected_location=lambda _config: "model.embed_tokens",
        engines=("hf",),
        plant=reset_special_rows,
    ),
)
