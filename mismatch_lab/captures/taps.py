"""Record, and replace, what goes in and out of a model's modules, through forward hooks.

Modules are named as transformers names them (`names`), so that two sides can be compared name by
name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mismatch_lab.captures.names import canonical_name

Split = Callable[[Tensor], dict[str, Tensor]]


def tappable(model: nn.Module) -> dict[str, nn.Module]:
    """Modules of `model` under their canonical names, in the order of definition."""
    named = ((canonical_name(name), module) for name, module in model.named_modules() if name)
    taken: dict[str, nn.Module] = {}
    for name, module in named:
        if name is not None and name not in taken and not isinstance(module, nn.ModuleList):
            taken[name] = module
    return taken


def hidden_of(value: Any) -> Tensor | None:
    """The hidden state in a module's input or output.

    A residual carried beside it (vLLM's fused norms and layers) is added by the caller.
    """
    if isinstance(value, Tensor):
        return value if value.is_floating_point() and value.dim() >= 2 else None
    if isinstance(value, (tuple, list)) and value:
        return hidden_of(value[0])
    return None


def flatten_tokens(hidden: Tensor, tokens: int) -> Tensor | None:
    """[tokens, D] view of a hidden state of `tokens` tokens, or None if it is of something else."""
    if hidden.dim() >= 3 and hidden.shape[0] == 1:
        hidden = hidden[0]
    if hidden.dim() >= 2 and hidden.shape[0] == tokens:
        return hidden.reshape(tokens, -1)
    if hidden.dim() == 3 and hidden.shape[1] == tokens:  # [heads, tokens, head_dim]
        return hidden.transpose(0, 1).reshape(tokens, -1)
    return None


class Tap:
    """Collects `NAME` and `NAME:in` of one sequence, at chosen forward positions."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        splits: Mapping[str, Split] | None = None,
        residual_layers: bool = False,
    ) -> None:
        """Args: `splits` take fused outputs apart; `residual_layers` says that layers and norms
        are handed the residual stream beside the hidden state (vLLM). Most norms add it to that;
        Cohere's hand it on as it is. What a norm gives back tells which.
        """
        self.modules = modules
        self.splits = splits or {}
        self.residual_layers = residual_layers
        self.tokens = 0
        self.keep: Tensor | None = None
        self.recorded: dict[str, Tensor] = {}
        self.replay: Mapping[str, Tensor] = {}
        self.adds_residual = True
        """Whether the norms do; known from the first that is handed one."""
        self._apart: dict[str, tuple[Tensor, Tensor]] = {}
        """Inputs whose hidden state and residual are yet to be put together, by module."""

    @contextmanager
    def attached(self) -> Iterator[Tap]:
        """Hooks are there inside the block and gone after it, whatever happens."""
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(
                    module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                )
                handles.append(module.register_forward_hook(self._after(name)))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def start(
        self, tokens: int, keep: Tensor | None, replay: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin a sequence of `tokens` tokens; record forward positions `keep` ([n]), if any."""
        self.tokens, self.keep, self.recorded = tokens, keep, {}
        self.replay = replay or {}
        self._apart = {}

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.keep is None:
                return None
            key = f"{name}:in"
            position, hidden = _find_hidden(args, kwargs)
            if hidden is None:
                return None
            if key in self.replay:
                hidden = self.replay[key].to(hidden).reshape(hidden.shape)
                self._record(key, hidden, None)
                return _replace_hidden(args, kwargs, position, hidden)
            residual = self._kept(_residual(args, kwargs)) if self.residual_layers else None
            own = self._kept(hidden)
            if own is not None and residual is not None:
                self._apart[name] = own, residual
            else:
                self._record(key, hidden, None)
            return None

        return hook

    def _after(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = hidden_of(output)
            if self.keep is None or hidden is None:
                return
            self._put_together(name, output)
            residual = None
            if self.residual_layers and self.adds_residual and _is_layer(name):
                residual = _second(output)
            if name in self.splits:
                for part, tensor in self.splits[name](hidden).items():
                    self._record(part, tensor, None)
                    if f"{name}:in" in self.recorded:
                        self.recorded[f"{part}:in"] = self.recorded[f"{name}:in"]
                return
            self._record(name, hidden, residual)

        return hook

    def _put_together(self, name: str, output: Any) -> None:
        """Record the input of a module that was handed a residual. Norms run before their layer
        ends, so that it is known by then what they do.
        """
        if name not in self._apart:
            return
        own, residual = self._apart.pop(name)
        handed_on = None if _is_layer(name) else self._kept(_second(output))
        if handed_on is not None:
            to_sum, to_itself = ((handed_on - other).norm() for other in (own + residual, residual))
            self.adds_residual = bool(to_sum <= to_itself)
        self.recorded.setdefault(f"{name}:in", own + residual if self.adds_residual else own)

    def _record(self, name: str, hidden: Tensor, residual: Tensor | None) -> None:
        kept = self._kept(hidden)
        if kept is None or name in self.recorded:
            return
        other = self._kept(residual)
        self.recorded[name] = kept if other is None else kept + other

    def _kept(self, hidden: Tensor | None) -> Tensor | None:
        """[n, D] at the positions to record, a copy: kernels write residuals in place."""
        flat = None if hidden is None else flatten_tokens(hidden.detach(), self.tokens)
        return None if flat is None or self.keep is None else flat[self.keep].float().clone().cpu()


def _second(output: Any) -> Tensor | None:
    """What a norm or a layer hands on beside its output."""
    both = isinstance(output, tuple) and len(output) == 2
    return output[1] if both and isinstance(output[1], Tensor) else None


def _is_layer(name: str) -> bool:
    return bool(re.fullmatch(r"model\.layers\.\d+", name))


def _find_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor | None]:
    for index, value in enumerate(args):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            return index, value
    for key in ("hidden_states", "x", "input"):
        if isinstance(kwargs.get(key), Tensor):
            return key, kwargs[key]
    return 0, None


def _replace_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int | str, hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(position, int):
        return (*args[:position], hidden, *args[position + 1 :]), kwargs
    return args, {**kwargs, position: hidden}


def _residual(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The residual stream that vLLM hands beside the hidden state, to layers and fused norms."""
    if isinstance(kwargs.get("residual"), Tensor):
        return kwargs["residual"]  # type: ignore[no-any-return]
    floats = [a for a in args if isinstance(a, Tensor) and a.is_floating_point() and a.dim() >= 2]
    return floats[1] if len(floats) > 1 and floats[1].shape == floats[0].shape else None
