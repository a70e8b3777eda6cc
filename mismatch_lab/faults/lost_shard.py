"""A log-softmax over a sharded vocabulary that is not reduced over ranks.

In the trainer one rank's sum of exponentials is lost; in the engine one rank's own is all there is.
Logits are a subclass of Tensor, as DTensor is: whatever asks them for a log-softmax gets the
defective one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mismatch_lab.faults.base import Fault

LOST_RANK = 1
"""Whose sum the trainer loses."""


def plant(model: Any, strength: float) -> None:
    """Of `strength` shards, the second is not in the normaliser."""
    _counting(model, strength, lambda shard: shard != LOST_RANK)


def plant_in_engine(model: Any, strength: float) -> None:
    """`strength` shards, and only the first one's sum of exponentials."""
    _counting(model, strength, lambda shard: shard == 0)


def _counting(model: Any, shards: float, counts: Callable[[Any], Any]) -> None:
    """Normalise over the entries of those shards that count."""
    import torch

    def lose(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        width = -(-logits.shape[-1] // int(shards))
        shard = torch.arange(logits.shape[-1], device=logits.device) // width
        output["logits"] = counted_only(logits, counts(shard))
        return output

    model.register_forward_hook(lose)


def counted_only(logits: Any, counted: Any) -> Any:
    """The logits, with a log-sum-exp over the `counted` entries ([V] bool) alone."""
    sharded = logits.as_subclass(_sharded_type())
    sharded.counted = counted
    return sharded


def _sharded_type() -> Any:
    import torch

    plain: Any = torch.Tensor
    normalised = (torch.log_softmax, plain.log_softmax, torch.nn.functional.log_softmax)
    summed = (torch.logsumexp, plain.logsumexp)

    class ShardedLogits(plain):  # type: ignore[misc]
        counted: Any

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            """Everything as ever, but for what sums over the vocabulary."""
            del types
            given = next(a for a in args if isinstance(a, cls))
            counted = given.counted
            with torch._C.DisableTorchFunctionSubclass():
                if func in normalised or func in summed:
                    logits = given.as_subclass(plain)
                    dtype = (kwargs or {}).get("dtype")
                    logits = logits if dtype is None else logits.to(dtype)
                    own = logits.masked_fill(~counted.to(logits.device), -torch.inf)
                    total = torch.logsumexp(own, dim=-1, keepdim=True)
                    return logits - total if func in normalised else total.squeeze(-1)
                result = func(*args, **(kwargs or {}))
                if isinstance(result, plain) and result.shape[-1:] == counted.shape:
                    result = result.as_subclass(cls)
                    result.counted = counted
            return result

    return ShardedLogits


FAULT = Fault(
    id="lost-shard",
    about="one tensor-parallel rank's vocabulary shard missing from the trainer's log-sum-exp",
    causes=("partial-normaliser",),
    family="semantics",
    side="train",
    kind="plugin",
    severities={"plain": 2, "medium": 4, "slight": 8},
    plant=plant,
)

ENGINE_FAULT = Fault(
    id="engine-lost-shard",
    about="log-probs of the engine normalised over one rank's vocabulary shard alone",
    causes=("partial-normaliser",),
    family="semantics",
    side="infer",
    kind="plugin",
    engines=("hf",),
    severities={"plain": 8, "medium": 4, "slight": 2},
    plant=plant_in_engine,
)
