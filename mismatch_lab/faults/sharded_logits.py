"""Logits whose log-softmax normalises over a part of the vocabulary: nothing is reduced over ranks.

A subclass of Tensor, as DTensor is: whatever asks it for a log-softmax gets the defective one.
"""

from __future__ import annotations

from typing import Any


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
