"""Sink attention with the arguments that transformers hands an attention function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.attention_sinks import ulysses
from mismatch_lab.remedies.attention_sinks.function import sink_attention
from mismatch_lab.remedies.attention_sinks.packing import Packing, counted, packing_of
from mismatch_lab.remedies.attention_sinks.spec import Spec


@dataclass(frozen=True)
class SinkAttention:
    """An attention function of transformers."""

    kernel: str = "auto"
    fused: bool | None = None
    group: ProcessGroup | None = None

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        s_aux: Tensor | None = None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention of query [B, H, n, D] over key and value [B, K, m, D].

        Returns:
            [B, n, H, D], and no weights.

        Raises:
            InputError: something is asked for that flash kernels with sinks cannot do.
        """
        sinks = _checked(module, s_aux, **kwargs)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = _one_dtype(query, key, value)
        if self.group is not None:
            query, key, value, sinks = _split(query, key, value, sinks, self.group)
        packing = self._packing(query, key, attention_mask, **kwargs)
        out = sink_attention(
            packing.pack(query, packing.q_kept),
            packing.pack(key, packing.k_kept),
            packing.pack(value, packing.k_kept),
            sinks,
            Spec(packing.layout, scale, sliding_window),
            kernel=self.kernel,
            fused=self.fused,
        )
        out = packing.unpack(out, query.shape[0], query.shape[2])
        if self.group is not None:
            out = ulysses.to_tokens(out, self.group)
        return out, None

    def _packing(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        *,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
        **_: Any,
    ) -> Packing:
        if cu_seq_lens_q is not None and cu_seq_lens_k is not None:
            return counted(cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        batch, n = query.shape[0], query.shape[2]
        if self.group is not None:
            if mask is not None or position_ids is None:
                raise InputError(
                    "Sequence parallelism wants packed sequences: position_ids and no padding."
                )
            position_ids = ulysses.all_positions(position_ids, self.group)
        return packing_of(batch, n, key.shape[2], mask, position_ids, query.device)


def _split(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All tokens of this rank's heads."""
    key, value = (ulysses.repeated_for(x, query.shape[1], group) for x in (key, value))
    query, key, value = (ulysses.to_heads(x, group) for x in (query, key, value))
    return query, key, value, ulysses.own_sinks(sinks, group)


def _checked(
    module: nn.Module,
    sinks: Tensor | None,
    *,
    dropout: float = 0.0,
    softcap: float | None = None,
    is_causal: bool | None = None,
    output_attentions: bool = False,
    **_: Any,
) -> Tensor:
    """The sinks. Nothing that is asked for is left out silently: that is how sinks got lost."""
    if sinks is None:
        raise InputError(
            f"{type(module).__name__} passed no sinks (s_aux).",
            "This is for models that have them; use sdpa or flash attention for others.",
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    asked = {
        "dropout": dropout > 0,
        "softcap": softcap is not None,
        "attention that is not causal": not causal,
        "attention weights": output_attentions,
    }
    if wanted := ", ".join(name for name, on in asked.items() if on):
        raise InputError(f"Attention with sinks through a flash kernel has no {wanted}.")
    return sinks


def _one_dtype(*tensors: Tensor) -> list[Tensor]:
    """What autocast would have made of the operands of a matrix product."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [x.to(torch.get_autocast_dtype(device)) for x in tensors]
