"""Suspected defects of matrix products: float32 operands that lose bits on their way in (TF32).

Values: `tf32`, operands rounded to the nearest, as cuBLAS does where it is allowed; `tf32:cut`, cut
off, as kernels that hand float32 to the tensor cores, which ignore the last 13 bits (`tl.dot` of
Triton unless told otherwise); `exact`, as they are: what the code around the products does alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from mismatch_lab.definitions.modules import Attention
from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions.attention import attentions, is_eager
from mismatch_lab.interventions.planting import attributes_set, hooks, in_layers, text
from mismatch_lab.interventions.rounding import tf32
from mismatch_lab.schema import Alteration

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "tf32": tf32,
    "tf32:cut": partial(tf32, cut=True),
    "exact": lambda tensor: tensor,
}
OPERANDS = {
    "linear": (0, 1), "matmul": (0, 1), "__matmul__": (0, 1), "mm": (0, 1), "bmm": (0, 1),
    "addmm": (1, 2), "baddbmm": (1, 2), "_grouped_mm": (0, 1), "grouped_mm_fallback": (0, 1),
}  # fmt: skip
"""torch function -> its arguments that are multiplied; what is added to them keeps its bits."""

ITS_OWN = ("matmul", "__matmul__")
"""Functions by which an attention multiplies what is no weight."""


@contextmanager
def attention_products(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Attention's own products as a flash kernel makes them: of queries and keys, and of values and
    weights that are not normalised yet. Projections keep all bits.
    """
    narrow = _form(model, alteration)
    modules = list(attentions(model, alteration).values())
    if not all(map(is_eager, modules)):
        raise NotApplicableError("Products of attention can be reached where it is eager.")
    if all(isinstance(module, Attention) for module in modules):
        with _narrow_within(modules, narrow, ITS_OWN):
            yield
        return
    name = f"mismatch-lab-{text(alteration)}"
    AttentionInterface.register(name, partial(_attend, narrow))
    configs = [copy.copy(module.config) for module in modules]
    for config in configs:
        config._attn_implementation_internal = name  # the masks are made by the model's own config
    pairs = zip(modules, configs, strict=True)
    with attributes_set([(module, "config", config) for module, config in pairs]):
        yield


@contextmanager
def expert_products(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Products of experts with their weights; routers keep all bits."""
    narrow = _form(model, alteration)
    experts = [
        module
        for name, module in model.named_modules()
        if name.endswith(".experts") and in_layers(name, alteration)
    ]
    if not experts:
        raise NotApplicableError("The model has no experts in these layers.")
    with _narrow_within(experts, narrow):
        yield


@contextmanager
def projection_products(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Products of linear layers, the head among them; what attention and experts multiply keeps
    all bits, as where those have kernels of their own.
    """
    narrow = _form(model, alteration)
    projections = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and in_layers(name, alteration)
    ]
    if not projections:
        raise NotApplicableError("The model has no linear layers in these layers.")
    with _narrow_within(projections, narrow):
        yield


@contextmanager
def all_products(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Every product of body and head, those of positions and frequencies too, as
    `torch.backends.cuda.matmul.allow_tf32` has them.
    """
    if alteration.layers is not None:
        raise NotApplicableError("What torch allows, it allows in all layers.")
    narrow = _form(model, alteration)
    head = model.get_output_embeddings()  # type: ignore[operator]
    with _narrow_within([model.base_model, head], narrow):  # type: ignore[list-item]
        yield


def _form(model: nn.Module, alteration: Alteration) -> Callable[[Tensor], Tensor]:
    value = text(alteration)
    if value not in FORMS:
        raise InputError(f"Products cannot be {value!r}.", f"Available: {', '.join(FORMS)}.")
    if next(model.parameters()).dtype != torch.float32:
        raise NotApplicableError("Only float32 has bits that TF32 ignores.")
    return FORMS[value]


def _attend(
    narrow: Callable[[Tensor], Tensor],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; sinks are the module's own."""
    groups = query.shape[1] // key.shape[1]
    key, value = (narrow(t).repeat_interleave(groups, 1) for t in (key, value))
    scores = narrow(query) @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    highest = scores.amax(-1, keepdim=True)
    sinks = getattr(module, "sinks", None)
    if sinks is not None:
        sinks = sinks.reshape(1, -1, 1, 1)
        highest = highest.maximum(sinks)
    weights = (scores - highest).exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks - highest).exp()
    attended = narrow(weights) @ value / total
    return attended.transpose(1, 2).contiguous(), None


@contextmanager
def _narrow_within(
    modules: Sequence[nn.Module],
    narrow: Callable[[Tensor], Tensor],
    functions: Collection[str] = OPERANDS.keys(),
) -> Iterator[None]:
    operands = {name: OPERANDS[name] for name in functions}
    with ExitStack() as inside:

        def enter(*_: Any) -> None:
            inside.enter_context(_NarrowOperands(narrow, operands))

        def leave(*_: Any) -> None:
            inside.close()

        handles = [
            handle
            for module in modules
            for handle in (
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave, always_call=True),
            )
        ]
        with hooks(handles):
            yield


class _NarrowOperands(TorchFunctionMode):
    """While active, torch functions that multiply matrices see narrower ones."""

    def __init__(
        self, narrow: Callable[[Tensor], Tensor], operands: Mapping[str, tuple[int, int]]
    ) -> None:
        super().__init__()
        self.narrow = narrow
        self.operands = operands

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = self.operands.get(getattr(func, "__name__", ""), ())
        if operands:
            args = [self.narrow(a) if i in operands else a for i, a in enumerate(args)]
        return func(*args, **(kwargs or {}))
