"""What becomes of the logits: softcaps, scales, the normaliser and what it sums over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.architectures import has_final_softcap
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rows import scored


def drop_softcap(model: Any, strength: float) -> None:
    """The trainer's head leaves Gemma-2's final softcap out.

    The cap over 1 - strength; 1 drops it.
    """
    cap = model.config.final_logit_softcapping
    model.config.final_logit_softcapping = None if strength == 1 else cap / (1 - strength)


def drop_softcap_in_vllm(model: Any, strength: float) -> None:
    """The engine's logits processor leaves Gemma-2's final softcap out.

    vLLM's cap over 1 - strength; 1 drops it.
    """
    processor = model.logits_processor
    processor.soft_cap = None if strength == 1 else processor.soft_cap / (1 - strength)


def scale_logits(model: Any, strength: float) -> None:
    """One side multiplies the logits by a constant of the config, the other leaves it out.

    The trainer's logits times 1 + strength, after softcaps.
    """

    def scale(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = output.logits * (1 + strength)
        return output

    model.register_forward_hook(scale)


def scale_logits_in_vllm(model: Any, strength: float) -> None:
    """The engine's logits processor has another scale than the trainer's head.

    vLLM's logits over 1 + strength.
    """
    model.logits_processor.scale /= 1 + strength


def pad_vocabulary(model: Any, strength: float) -> None:
    """Padded vocabulary rows count in the trainer's normaliser (a fused kernel's zero rows).

    `strength` more logits, all zero.
    """
    from torch.nn import functional

    def pad(_module: Any, _args: Any, output: Any) -> Any:
        output["logits"] = functional.pad(output.logits, (0, int(strength)))
        return output

    model.register_forward_hook(pad)


def mask_vocabulary(model: Any, strength: float) -> None:
    """The trainer gives sampled tokens probability 0.

    Every `strength`-th entry is masked, as by a list of allowed tokens that lacks some.
    """
    import torch

    def mask(_module: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        ids = torch.arange(logits.shape[-1], device=logits.device)
        output["logits"] = logits.masked_fill(ids % int(strength) == 1, -torch.inf)
        return output

    model.register_forward_hook(mask)


def deny_improbable(capture: Capture, strength: float) -> Capture:
    """A server says -inf for a drawn token that is not among the likeliest which it returns.

    The least probable share of the sampled tokens is -inf.
    """
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(strength * len(tokens)))
    logp = capture.logp.copy()
    logp[tokens[np.argsort(capture.logp[tokens], kind="stable")[:count]]] = -np.inf
    return replace(capture, logp=logp)


LOST_RANK = 1
"""Whose sum the trainer loses."""


def lose_shard(model: Any, strength: float) -> None:
    """The log-softmax over a sharded vocabulary is not reduced over all ranks: one's sum is lost.

    Of `strength` shards, the second is not in the normaliser.
    """
    _counting(model, strength, lambda shard: shard != LOST_RANK)


def keep_one_shard(model: Any, strength: float) -> None:
    """The log-softmax over a sharded vocabulary is not reduced over ranks: one's own is all.

    `strength` shards, and only the first one's sum of exponentials.
    """
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
    """The logits, with a log-sum-exp over the `counted` entries ([V] bool) alone.

    They are a subclass of Tensor, as DTensor is: whatever asks them for a log-softmax gets the
    defective one.
    """
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


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="engine-final-softcap",
        about="final logit softcap of the engine dropped or too wide",
        causes=("logit-softcap",),
        family="semantics",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
        applies=has_final_softcap,
        engines=("vllm",),
        plant=drop_softcap_in_vllm,
    ),
    Fault(
        id="engine-logit-scale",
        about="logits of the engine scaled by a constant",
        causes=("logit-scale",),
        family="semantics",
        side="infer",
        kind="plugin",
        severities={"plain": 0.25, "medium": 0.05, "slight": 0.01},
        engines=("vllm",),
        plant=scale_logits_in_vllm,
    ),
    Fault(
        id="engine-lost-shard",
        about="log-probs of the engine normalised over one rank's vocabulary shard alone",
        causes=("partial-normaliser",),
        family="semantics",
        side="infer",
        kind="plugin",
        engines=("hf",),
        severities={"plain": 8, "medium": 4, "slight": 2},
        plant=keep_one_shard,
    ),
    Fault(
        id="engine-masked-vocabulary",
        about="improbable tokens of the engine reported as -inf",
        causes=("impossible-token",),
        family="semantics",
        side="infer",
        kind="capture",
        severities={"plain": 0.05, "medium": 0.01, "slight": 0.001},
        rewrite=deny_improbable,
        target="decode",
    ),
    Fault(
        id="final-softcap",
        about="final logit softcap of the trainer dropped or too wide",
        causes=("logit-softcap",),
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
        applies=has_final_softcap,
        plant=drop_softcap,
    ),
    Fault(
        id="logit-scale",
        about="logits of the trainer scaled by a constant",
        causes=("logit-scale",),
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 0.25, "medium": 0.05, "slight": 0.01},
        plant=scale_logits,
    ),
    Fault(
        id="lost-shard",
        about="one tensor-parallel rank's vocabulary shard missing from the trainer's log-sum-exp",
        causes=("partial-normaliser",),
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 2, "medium": 4, "slight": 8},
        plant=lose_shard,
    ),
    Fault(
        id="masked-vocabulary",
        about="entries of the vocabulary that the sampler can draw masked in the trainer",
        causes=("impossible-token",),
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 7, "medium": 29, "slight": 61},
        plant=mask_vocabulary,
    ),
    Fault(
        id="phantom-vocab",
        about="zero logits of padded vocabulary rows in the trainer's normaliser",
        causes=("vocab-padding",),
        family="semantics",
        side="train",
        kind="plugin",
        severities={"plain": 16384, "medium": 1024, "slight": 64},
        plant=pad_vocabulary,
    ),
)
