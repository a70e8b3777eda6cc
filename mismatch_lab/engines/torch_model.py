"""A transformers checkpoint as a torch module, and its body and head apart."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.generic import ModelOutput

from mismatch_lab.captures.structure import outline
from mismatch_lab.checkpoints.config import load_config
from mismatch_lab.engines.options import TorchOptions
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.interventions.planting import free_bytes
from mismatch_lab.schema import SideSpec

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
CPU = torch.device("cpu")


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one.

    Raises:
        InputError: not a device of this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {name!r} cannot be used: {error}") from error
    return device


def load_model(
    spec: SideSpec,
    options: TorchOptions,
    dtype: torch.dtype,
    device: torch.device = CPU,
) -> nn.Module:
    """The checkpoint in evaluation mode, its rotary frequencies in fp32.

    It is read straight onto a `device` other than the CPU where accelerate is installed, which
    saves as much memory of the host as the model takes, and spread over all GPUs if it has no room
    on that one; otherwise it stays on the CPU.

    Raises:
        InputError: the checkpoint cannot be read or its architecture is unknown.
        EngineError: it does not fit into memory.
    """
    load_config(spec.model, spec.trust_remote_code)
    place: torch.device | str | None = None
    if device != CPU and find_spec("accelerate") is not None:
        place = device
    try:
        if place is not None and device.type == "cuda" and torch.cuda.device_count() > 1:
            place = device_map_of(empty_model(spec, options, dtype), device)
        model = AutoModelForCausalLM.from_pretrained(
            spec.model,
            dtype=dtype,
            device_map=place,
            trust_remote_code=spec.trust_remote_code,
            **_implementations(options),
        )
    except MemoryError as error:
        raise EngineError(f"{spec.model} does not fit into memory.") from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"transformers cannot load {spec.model}: {error}") from error
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype not in (torch.float32, torch.float64):
            raise EngineError(f"{name} was loaded as {buffer.dtype}: rotary phases would be wrong.")
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return model


ROOM_TO_RUN = 1.2
"""Of a model's size: activations of a micro-batch, logits of a chunk, float64 for a scale."""


def device_map_of(model: nn.Module, device: torch.device) -> torch.device | str:
    """The device, or `auto`: layers in turn over all GPUs, where that one has no room for them."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    return device if ROOM_TO_RUN * size < free_bytes(device) else "auto"


def is_spread(model: nn.Module) -> bool:
    """Whether its layers are on several devices, each handing on to the next."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def empty_model(spec: SideSpec, options: TorchOptions, dtype: torch.dtype) -> nn.Module:
    """The modules of `load_model` on the meta device: shapes, no values.

    Raises:
        InputError: the checkpoint's config cannot be read or its architecture is unknown.
    """
    config = load_config(spec.model, spec.trust_remote_code)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config,
            dtype=dtype,
            trust_remote_code=spec.trust_remote_code,
            **_implementations(options),
        )
    model.eval()
    model.requires_grad_(False)
    return model


def _implementations(options: TorchOptions) -> dict[str, str]:
    """What transformers is told of kernels; it chooses what is left out."""
    asked = {
        "attn_implementation": options.attn_implementation,
        "experts_implementation": options.experts_implementation,
    }
    return {name: value for name, value in asked.items() if value != "auto"}


class BodyAndHead:
    """Runs a causal LM in two steps: hidden states first, logits of a few tokens at a time.

    The head is the model's own forward with its body replaced by given hidden states, so that
    softcaps, scales and biases of any architecture are applied as the trainer applies them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._candidates = _around_layers(model)
        if not self._candidates:
            raise InputError(f"{type(model).__name__} has no body apart from its head.")
        accepted = inspect.signature(model.forward).parameters
        self._keep_one = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._ran: tuple[nn.Module, ModelOutput] | None = None

    def hidden(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None = None
    ) -> Tensor:
        """[B, n] ids to [B, n, D] hidden states after the final norm.

        Raises:
            InputError: no module of the model gives such.
        """
        counted = {} if position_ids is None else {"position_ids": position_ids}
        seen: list[tuple[nn.Module, Any]] = []
        with ExitStack() as stack:
            for module in self._candidates:
                handle = module.register_forward_hook(lambda m, _args, out: seen.append((m, out)))
                stack.callback(handle.remove)
            self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=False,
                return_dict=True,
                **counted,
                **self._keep_one,
            )
        bodies = [(m, out) for m, out in seen if hasattr(out, "last_hidden_state")]
        if not bodies:
            raise InputError(f"{type(self.model).__name__} has no body apart from its head.")
        self._ran = bodies[-1]  # what is within another ends before it
        hidden: Tensor = bodies[-1][1].last_hidden_state
        return hidden.to(input_ids.device)  # where layers are spread, the last one is elsewhere

    def head(self, hidden: Tensor) -> Tensor:
        """[n, D] hidden states to [n, V] logits; call `hidden` once before."""
        with self._body_returns(hidden[None]):
            dummy = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            output = self.model(input_ids=dummy, use_cache=False, return_dict=True)
        return output.logits[0]  # type: ignore[no-any-return]

    @contextmanager
    def _body_returns(self, hidden: Tensor) -> Iterator[None]:
        assert self._ran is not None
        body, output = self._ran[0], copy(self._ran[1])
        # The architecture's own output object, with whatever fields its head reads.
        output["last_hidden_state"] = hidden
        body.forward = lambda *_args, **_kwargs: output
        try:
            yield
        finally:
            del body.forward


def _around_layers(model: nn.Module) -> list[nn.Module]:
    """The modules between a model and its list of decoder layers. Which of them the model calls is
    its own affair: OPT goes past its `base_model`.
    """
    path = (outline(model).layers or "").split(".")[:-1]
    return [model.get_submodule(".".join(path[:n])) for n in range(1, len(path) + 1)]
