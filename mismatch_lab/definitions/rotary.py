"""Rotary position embeddings (RoFormer, arXiv:2104.09864): frequencies, and turning by them.

A pair of entries of a head turns by `position * frequency`. The kinds differ in the frequencies
alone, and in a factor on the turned vectors (YaRN's and LongRoPE's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mismatch_lab.definitions.recipes import SLIDING, Config, entry
from mismatch_lab.errors import NotDefinedError

Parameters = Mapping[str, Any]


class RotaryEmbedding(nn.Module):
    """How queries and keys turn, in all layers of a kind."""

    inv_freq: Tensor
    """[d / 2] float32, radians a position; d entries of each head turn, the others do not."""
    long_inv_freq: Tensor
    """The same in rows that are longer than the original context (LongRoPE)."""

    def __init__(
        self,
        parameters: Parameters,
        head_dim: int,
        context: int,
        pairs: Literal["halves", "neighbours"],
    ) -> None:
        """Args:
        parameters: of `parameters_of`.
        head_dim: entries of a head.
        context: `max_position_embeddings`.
        pairs: which entries turn together.

        Raises:
            NotDefinedError: a kind that is not defined here.
        """
        super().__init__()
        self.given = parameters
        self.head_dim, self.context, self.pairs = head_dim, context, pairs
        with torch.device("cpu"):  # whatever the model is made on
            frequencies, self.attention_scaling = self.computed(parameters)
        self.register_buffer("inv_freq", frequencies[0], persistent=False)
        self.register_buffer("long_inv_freq", frequencies[1], persistent=False)

    def computed(self, parameters: Parameters) -> tuple[tuple[Tensor, Tensor], float]:
        """((frequencies, those of long rows), factor on the turned vectors) of some parameters."""
        short, factor = frequencies_of(parameters, self.head_dim, self.context, long=False)
        long, _ = frequencies_of(parameters, self.head_dim, self.context, long=True)
        return (short, long), factor

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, n, d / 2] of positions [B, n], in the dtype of `x`; the angles are
        in float32, or in float64 if `x` is.
        """
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        original = self.given.get("original_max_position_embeddings") or self.context
        long = int(position_ids.max()) >= int(original)
        angles = position_ids[..., None].to(wide) * (self.long_inv_freq if long else self.inv_freq)
        scale = self.attention_scaling
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

    def turn(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, H, n, D] queries or keys, turned."""
        cos, sin = cos[:, None], sin[:, None]
        half = cos.shape[-1]
        turning, rest = heads[..., : 2 * half], heads[..., 2 * half :]
        if self.pairs == "halves":
            x, y = turning[..., :half], turning[..., half:]
            turned = torch.cat([x * cos - y * sin, y * cos + x * sin], dim=-1)
        else:
            x, y = turning[..., ::2], turning[..., 1::2]
            turned = torch.stack([x * cos - y * sin, y * cos + x * sin], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1)


def parameters_of(config: Config, kind: str) -> dict[str, Any]:
    """Entries of config.json that define the frequencies of layers of a kind, by today's names."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if kind in found:  # a set for each kind of layer
        found = found[kind]
    elif config.get("rope_local_base_freq") and kind == SLIDING:  # Gemma 3 as it was published
        found = {"rope_theta": config["rope_local_base_freq"]}
    given = dict(found)
    given.setdefault("rope_type", given.pop("type", "default"))
    given.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    share = config.get("partial_rotary_factor", 1.0)
    given.setdefault("partial_rotary_factor", share)
    if config.get("original_max_position_embeddings"):  # Phi-3 has it beside the others
        given.setdefault(
            "original_max_position_embeddings", config["original_max_position_embeddings"]
        )
    return given


def frequencies_of(
    parameters: Parameters, head_dim: int, context: int, *, long: bool
) -> tuple[Tensor, float]:
    """(frequencies [d / 2], factor on the turned vectors).

    Args:
        parameters: of `parameters_of`.
        head_dim: entries of a head.
        context: `max_position_embeddings`.
        long: for rows longer than the original context, where that makes a difference.

    Raises:
        NotDefinedError: a kind that is not defined here.
    """
    kind = str(parameters["rope_type"])
    if kind not in KINDS:
        raise NotDefinedError(f"Rotary embeddings of kind {kind} have no definition here.")
    dims = int(head_dim * float(parameters["partial_rotary_factor"]))
    exponents = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    plain = 1.0 / float(parameters["rope_theta"]) ** exponents
    return KINDS[kind](plain, parameters, context, long)


def _default(plain: Tensor, _p: Parameters, _context: int, _long: bool) -> tuple[Tensor, float]:
    return plain, 1.0


def _linear(plain: Tensor, p: Parameters, _context: int, _long: bool) -> tuple[Tensor, float]:
    """Position interpolation, arXiv:2306.15595."""
    return plain / float(entry(p, "factor")), 1.0


def _llama3(plain: Tensor, p: Parameters, _context: int, _long: bool) -> tuple[Tensor, float]:
    """Llama 3.1 (meta-llama/llama-models): long waves are stretched, short ones are not, and those
    between are mixed by how many of them fit into the original context.
    """
    fits = float(entry(p, "original_max_position_embeddings")) * plain / (2 * math.pi)
    low, high = float(entry(p, "low_freq_factor")), float(entry(p, "high_freq_factor"))
    kept = ((fits - low) / (high - low)).clamp(0, 1)
    return plain * kept + plain / float(entry(p, "factor")) * (1 - kept), 1.0


def _yarn(plain: Tensor, p: Parameters, context: int, _long: bool) -> tuple[Tensor, float]:
    """YaRN, arXiv:2309.00071, 3.2 and 3.4: as for Llama 3.1, by turns within the original context,
    the mixture linear in the number of the pair.
    """
    factor, theta = float(entry(p, "factor")), float(p["rope_theta"])
    original = float(p.get("original_max_position_embeddings") or context)
    dims = 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        return dims * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_that_turns(float(p.get("beta_fast") or 32.0))
    last = pair_that_turns(float(p.get("beta_slow") or 1.0))
    if p.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    width = max(last - first, 1e-3)
    stretched = ((torch.arange(len(plain), dtype=torch.float32) - first) / width).clamp(0, 1)
    mixed = plain / factor * stretched + plain * (1 - stretched)
    return mixed, _yarn_factor(p, factor)


def _yarn_factor(p: Parameters, factor: float) -> float:
    def temperature(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    above, below = p.get("mscale"), p.get("mscale_all_dim")
    if above and below:  # DeepSeek's two scales
        return temperature(float(above)) / temperature(float(below))
    return temperature(1.0)


def _longrope(plain: Tensor, p: Parameters, context: int, long: bool) -> tuple[Tensor, float]:
    """LongRoPE, arXiv:2402.13753: every pair is stretched by a number of its own, by others in rows
    that are longer than the original context.
    """
    original = float(p.get("original_max_position_embeddings") or context)
    factor = float(p.get("factor") or context / original)
    stretched = entry(p, "long_factor" if long else "short_factor")
    scale = p.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return plain / torch.tensor(stretched, dtype=torch.float32), float(scale)


KINDS: dict[str, Callable[[Tensor, Parameters, int, bool], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
"""rope_type -> function (plain frequencies, parameters, context, whether rows are long)."""
