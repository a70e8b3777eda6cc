"""Whole layers: embeddings, norms, the residual stream, what the linears are given."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle_layer
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import (
    UNLISTED,
    first_layer,
    middle_of,
    rescale_output,
    round_inputs,
)
from mismatch_lab.faults.modules import layers, norms, share_of
from mismatch_lab.faults.rounding import rounded, scaled_rounded


def drop_embedding_factor(model: Any, strength: float) -> None:
    """The trainer leaves out the factor on the embeddings.

    The factor to the power of 1 - strength.
    """
    config = model.config.to_dict()
    factor = config.get("embedding_multiplier") or config["hidden_size"] ** 0.5
    rescale_output(model.model.embed_tokens, lambda _ids, out: out * factor**-strength)


def has_embedding_factor(model_type: str, config: Config) -> bool:
    """Gemma's is the root of the hidden size."""
    return model_type.startswith("gemma") or "embedding_multiplier" in config


def enlarge_epsilon(model: Any, strength: float) -> None:
    """The trainer's norms have the epsilon of another config.

    Every norm's epsilon `strength` times as large.
    """
    for module in model.modules():
        for name in ("variance_epsilon", "eps"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, getattr(module, name) * strength)


def add_one_to_norms(model: Any, strength: float) -> None:
    """The trainer's norms take their weights for deviations from 1.

    1 + weight in the first `strength` share of the norms (Gemma's: weight alone).
    """
    for norm in share_of(norms(model), strength):
        norm.weight.data.add_(-1.0 if type(norm).__name__.startswith("Gemma") else 1.0)


def round_residual(model: Any, strength: str) -> None:
    """The trainer carries the residual stream from layer to layer in half precision.

    What leaves a layer is rounded to the dtype `strength`.
    """
    for layer in layers(model):
        rescale_output(layer, lambda _given, output: rounded(output, strength))


def skip_layer(model: Any, strength: float) -> None:
    """The trainer leaves out one layer, or what is added of it is scaled.

    What the middle layer adds to its input is less by a share of `strength`.
    """

    def less(given: Any, output: Any) -> Any:
        return given + (1 - strength) * (output - given)

    rescale_output(middle_of(model), less)


def quantise_inputs(model: Any, strength: str) -> None:
    """The engine multiplies in eight bits: inputs of its linears are rounded, weights are not.

    Inputs of the linears and experts of every layer, each token with a scale of its own.
    """
    for layer in layers(model):
        for name, module in layer.named_modules():
            if name.endswith(("_proj", "mlp.experts")):
                round_inputs(module, lambda hidden: scaled_rounded(hidden, strength))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="embedding-scale",
        about="embeddings of the trainer not scaled",
        causes=(UNLISTED,),
        family="embedding",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.05, "slight": 0.005},
        applies=has_embedding_factor,
        expected_location=lambda _config: "model.embed_tokens",
        plant=drop_embedding_factor,
    ),
    Fault(
        id="layer-skipped",
        about="one layer of the trainer skipped or scaled",
        causes=(UNLISTED,),
        family="trainer",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
        expected_location=lambda config: f"model.layers.{middle_layer(config)}",
        plant=skip_layer,
    ),
    Fault(
        id="norm-eps",
        about="epsilon of the trainer's norms too large",
        causes=(UNLISTED,),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1000.0, "medium": 100.0, "slight": 10.0},
        expected_location=first_layer("input_layernorm"),
        plant=enlarge_epsilon,
    ),
    Fault(
        id="norm-plus-one",
        about="weights of the trainer's norms off by one",
        causes=(UNLISTED, "stale-tensor"),
        why_several="tensors then hold other numbers than the checkpoint's",
        family="weights",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.25, "slight": 0.1},
        expected_location=first_layer("input_layernorm"),
        plant=add_one_to_norms,
    ),
    Fault(
        id="quantised-activations",
        about="inputs of the engine's linears quantised",
        causes=(UNLISTED,),
        family="precision",
        side="infer",
        kind="plugin",
        severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "int8"},
        expected_location=first_layer("self_attn"),
        plant=quantise_inputs,
    ),
    Fault(
        id="residual-bf16",
        about="residual stream of the trainer in bf16",
        causes=(UNLISTED,),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
        expected_location=lambda _config: "model.layers.0",
        dtypes=("float32",),
        plant=round_residual,
    ),
)
