"""Record, and replace, what goes in and out of a model's modules, through forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mismatch_lab.captures.names import FINAL_NORM, LAYERS, layer_of
from mismatch_lab.captures.structure import is_norm
from mismatch_lab.captures.token_axes import TokenAxes

Split = Callable[[Tensor], dict[str, Tensor]]
Pair = tuple[Tensor, Tensor]

OTHER_SIZE = "its input is of another size on the other side"


class Tap:
    """Collects `NAME` and `NAME:in` of one sequence, at chosen forward positions.

    Nothing is recorded before `axes.learn` has run two short sequences through the hooked model.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        splits: Mapping[str, Split] | None = None,
        residual_layers: bool = False,
    ) -> None:
        """Hook nothing yet.

        Args:
            modules: by canonical name.
            splits: take fused outputs apart.
            residual_layers: whether layers and norms may be handed the residual stream beside the
                hidden state (vLLM). Some norms add it, some hand it on, some get none.
        """
        self.modules = modules
        self.splits = splits or {}
        self.residual_layers = residual_layers
        self.axes = TokenAxes()
        self.tokens = 0
        self.keep: Tensor | None = None
        self.replay: Mapping[str, Tensor] = {}
        self.order: dict[str, None] = {}
        """Names in the order in which their outputs were there."""
        self._recorded: dict[str, Tensor] = {}
        self._apart: dict[str, Pair] = {}
        """Keys whose hidden state and residual are yet to be put together."""
        self._unfit: set[str] = set()
        """Modules whose replayed input is of another size than their own."""
        self._adds: dict[str, bool] = {}
        """Norms that were handed a residual -> whether they added it."""

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
        self.tokens, self.keep = tokens, keep
        self.replay = replay or {}
        self._recorded, self._apart, self._adds, self._unfit = {}, {}, {}, set()

    def recorded(self) -> dict[str, Tensor]:
        """[n, D] of what was recorded of the sequence; residuals are put where they belong."""
        for name in self.modules:
            if layer_of(name) is not None and f"{name}:in" in self._apart:
                own, residual = self._apart.pop(f"{name}:in")
                self._recorded[f"{name}:in"] = own + residual if self._is_added(name) else own
        for name in self.modules:
            if name in self._apart:
                self._recorded[name] = self._handed_on(name, *self._apart.pop(name))
        return self._recorded

    def unclear(self) -> dict[str, str]:
        """Module -> why what it takes or gives is not recorded."""
        found = {key.removesuffix(":in"): why for key, why in self.axes.unclear.items()}
        return {name: why for name, why in found.items() if name in self.modules}

    def _before(self, name: str) -> Callable[..., Any]:
        key = f"{name}:in"

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            position, hidden = _find_hidden(args, kwargs)
            if hidden is None or self._is_watched(key, hidden) or self.keep is None:
                return None
            if key in self.replay:
                return self._replaced(name, args, kwargs, position, hidden)
            carries = self.residual_layers and (_is_layer(name) or is_norm(module))
            self._record(key, hidden, _residual(args, kwargs) if carries else None)
            return None

        return hook

    def _replaced(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        position: int | str,
        hidden: Tensor,
    ) -> Any:
        """Arguments with the replayed input in place of the module's own."""
        key = f"{name}:in"
        given, own = self.replay[key], self.axes.flatten(key, hidden, self.tokens)
        if own is None or given.numel() != own.numel():
            self._unfit.add(name)
            self.axes.unclear[key] = OTHER_SIZE
            return None
        hidden = self.axes.unflatten(key, given, hidden)
        self._record(key, hidden)
        return _replace_hidden(args, kwargs, position, hidden)

    def _after(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = _given(output)
            if hidden is None or self._is_watched(name, hidden) or self.keep is None:
                return
            self.order[name] = None
            if name in self._unfit:  # it ran on an input of its own
                return
            beside = _second(output) if self.residual_layers else None
            if f"{name}:in" in self._apart and not _is_layer(name):
                self._judge(name, beside)
            if name in self.splits:
                self._take_apart(name, hidden)
                return
            self._record(name, hidden, beside if _is_layer(name) else None)

        return hook

    def _is_watched(self, key: str, hidden: Tensor) -> bool:
        if self.axes.learning:
            self.axes.see(key, hidden)
        return self.axes.learning

    def _judge(self, name: str, beside: Tensor | None) -> None:
        """Whether a norm added the residual that it was handed: what it hands on tells."""
        own, residual = self._apart.pop(f"{name}:in")
        handed_on = self._kept(f"{name}:in", beside)
        adds = True
        if handed_on is not None:
            to_sum, to_itself = ((handed_on - other).norm() for other in (own + residual, residual))
            adds = bool(to_sum <= to_itself)
        self._adds[name] = adds
        self._recorded.setdefault(f"{name}:in", own + residual if adds else own)

    def _is_added(self, layer: str) -> bool:
        """Whether a layer adds the residual that it is handed: its first norm that is handed it."""
        return next((a for name, a in self._adds.items() if name.startswith(f"{layer}.")), False)

    def _handed_on(self, layer: str, own: Tensor, beside: Tensor) -> Tensor:
        """What a layer gives is what the next one, or the final norm, takes."""
        number = layer_of(layer)
        following = f"{LAYERS}.{(number or 0) + 1}:in"
        taken = self._recorded.get(following, self._recorded.get(f"{FINAL_NORM}:in"))
        if taken is None:
            return own + beside if self._is_added(layer) else own
        to_sum, to_itself = ((taken - other).norm() for other in (own + beside, own))
        return own + beside if to_sum <= to_itself else own

    def _take_apart(self, name: str, hidden: Tensor) -> None:
        for part, tensor in self.splits[name](hidden).items():
            kept = self._kept(name, tensor)
            if kept is not None:
                self._recorded.setdefault(part, kept)
            if f"{name}:in" in self._recorded:
                self._recorded.setdefault(f"{part}:in", self._recorded[f"{name}:in"])

    def _record(self, key: str, hidden: Tensor, beside: Tensor | None = None) -> None:
        if key in self._recorded or key in self._apart:
            return
        kept, other = self._kept(key, hidden), self._kept(key, beside)
        if kept is not None and other is not None:
            self._apart[key] = kept, other
        elif kept is not None:
            self._recorded[key] = kept

    def _kept(self, key: str, hidden: Tensor | None) -> Tensor | None:
        """[n, D] at the positions to record, a copy: kernels write residuals in place."""
        if hidden is None or self.keep is None:
            return None
        flat = self.axes.flatten(key, hidden.detach(), self.tokens)
        return None if flat is None else flat[self.keep.to(flat.device)].float().clone().cpu()


def _given(output: Any) -> Tensor | None:
    """The hidden state in a module's output. Of a router's, which holds expert numbers too, the
    logits: they are the widest.
    """
    if isinstance(output, Tensor):
        return output if _is_hidden(output) else None
    if not isinstance(output, (tuple, list)):
        return None
    tensors = [value for value in output if isinstance(value, Tensor)]
    hidden = [tensor for tensor in tensors if _is_hidden(tensor)]
    if any(not tensor.is_floating_point() for tensor in tensors):
        return max(hidden, key=lambda tensor: tensor.shape[-1], default=None)
    return hidden[0] if hidden else None


def _is_hidden(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2


def _second(output: Any) -> Tensor | None:
    """What a norm or a layer hands on beside its output."""
    both = isinstance(output, tuple) and len(output) == 2
    return output[1] if both and isinstance(output[1], Tensor) else None


def _is_layer(name: str) -> bool:
    return name == f"{LAYERS}.{layer_of(name)}"


def _find_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor | None]:
    for index, value in enumerate(args):
        if _is_hidden(value):
            return index, value
    for key in ("hidden_states", "x", "input", *kwargs):
        if _is_hidden(kwargs.get(key)):
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
    floats = [a for a in args if _is_hidden(a)]
    return floats[1] if len(floats) > 1 and floats[1].shape == floats[0].shape else None
