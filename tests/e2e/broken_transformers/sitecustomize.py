"""A transformers that is broken for whoever imports it: a trainer and the reference alike.

On PYTHONPATH, with BREAK_TRANSFORMERS naming what: a defect of each kind of code that both share.
"""

import importlib.abc
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any


def ignore_sinks(modeling: ModuleType) -> None:
    """Eager attention without its sinks."""

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    modeling.eager_attention_forward = attend


def stretch_rotary(modeling: ModuleType) -> None:
    """Sines of angles a tenth too large."""
    embedding = _class(modeling, "RotaryEmbedding")
    forward = embedding.forward

    def stretched(self: Any, x: Any, position_ids: Any) -> Any:
        cos, sin = forward(self, x, position_ids)
        return cos, sin * 1.1

    embedding.forward = stretched


def forget_centre(modeling: ModuleType) -> None:
    """RMS norms that divide by the mean magnitude, not by the root mean square."""
    norm = _class(modeling, "RMSNorm")

    def forward(self: Any, x: Any) -> Any:
        scale = x.float().abs().mean(-1, keepdim=True) + self.variance_epsilon
        return (self.weight * (x.float() / scale)).to(x.dtype)

    norm.forward = forward


def flatten_router(modeling: ModuleType) -> None:
    """Routers that weigh the chosen experts alike."""
    router = _class(modeling, "TopKRouter")
    forward = router.forward

    def flattened(self: Any, hidden_states: Any) -> Any:
        logits, weights, chosen = forward(self, hidden_states)
        return logits, weights * 0 + 1.0 / weights.shape[-1], chosen

    router.forward = flattened


BREAKS = {
    "sinks": ignore_sinks,
    "rotary": stretch_rotary,
    "norm": forget_centre,
    "router": flatten_router,
}


def _class(modeling: ModuleType, ending: str) -> Any:
    return next(
        value
        for name, value in vars(modeling).items()
        if name.endswith(ending) and getattr(value, "__module__", "") == modeling.__name__
    )


class Breaking(importlib.abc.MetaPathFinder):
    """Breaks one modeling file when it is imported."""

    def __init__(self, name: str, how: str) -> None:
        self.name, self.how = name, how

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            BREAKS[self.how](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "BREAK_TRANSFORMERS" in os.environ:
    kind, _, what = os.environ["BREAK_TRANSFORMERS"].partition(":")
    file = f"transformers.models.{kind}.modeling_{kind}"
    sys.meta_path.insert(0, Breaking(file, what))
