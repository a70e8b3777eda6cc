"""What is kept of a weight tensor: exact sums of its values' mixed bits, which add up over parts.

A checksum of bytes changes when q, k and v are stacked or a kernel reorders a matrix, though no
weight changed; sums of the values themselves hardly change when every weight moves by a learning
rate. Both sums here are taken modulo 2^64, so they are exact in any order:

- `values`: the sum over elements of `mix(bits of the value)`. Of stacked, divided and reordered
  tensors they add up; a permutation does not show.
- `placed`: element i in row-major order weighs `PLACE ** i`, so that a permutation shows, and the
  sum of rows put behind rows follows from those of the parts (`joined`).

What counts is a value, not how it is stored: bits are those of the value in float32, which holds
every bfloat16 and float16. Zeros of either sign and what is smaller than float32's normal numbers
count as 0, since kernels flush and re-sign them, and 0 adds nothing, so that a kernel's padding
does not show; every NaN is the same. Sides may hold a weight in different dtypes, one the rounding
of the other: so the sums are taken of the values rounded to each of `ROUNDED_TO`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDED_TO = ("float32", "bfloat16", "float16")
"""Dtypes that weights are held in; float64 is compared as float32, which engines compute in."""

MODULUS = 1 << 64
MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
"""Of `mix`: those of MurmurHash3's finaliser (Appleby, public domain)."""
SHIFTS = (32, 29)
"""Of `mix`: the first brings down all that the product of 32 bits put into the upper half."""
PLACE = 0x5851F42D4C957F2D
"""Knuth's multiplier (MMIX); being 5 modulo 8, its powers repeat after 2^62 places alone."""

EXPONENT = 0x7F800000
QUIET_NAN = 0x7FC00000


@dataclass(frozen=True)
class Fingerprint:
    """Of one tensor, or of tensors that a side holds as one."""

    dtype: str
    """It is held in."""
    shape: tuple[int, ...]
    values: Mapping[str, int]
    """By `ROUNDED_TO`."""
    placed: Mapping[str, int] | None
    """By `ROUNDED_TO`; None where the order of the elements is not known to be the checkpoint's."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def agrees(self, other: Fingerprint) -> bool:
        """Whether both are the same tensor, or one is the other rounded to the dtype it is held in.

        Where both know the order of their elements and are laid out alike, that counts too.
        """
        held_in = {_rounding(self.dtype), _rounding(other.dtype)}
        return any(self._same(other, kind) for kind in held_in)

    def _same(self, other: Fingerprint, kind: str) -> bool:
        if self.values[kind] != other.values[kind]:
            return False
        if self.placed is None or other.placed is None or not self._laid_out_like(other):
            return True
        return self.placed[kind] == other.placed[kind]

    def _laid_out_like(self, other: Fingerprint) -> bool:
        """Rows of the same length: [E, m, n] and [E * m, n] are, [E, n, m] is not.

        Of stacked square matrices there is no telling: engines hold GPT-OSS's experts transposed,
        and those of the 20b and 120b are 2880 x 2880.
        """
        squares = (len(s) == 3 and s[1] == s[2] for s in (self.shape, other.shape))
        if self.numel != other.numel or any(squares):
            return False
        flat = 1 in (len(self.shape), len(other.shape)) or () in (self.shape, other.shape)
        return flat or self.shape[-1] == other.shape[-1]

    def as_json(self) -> dict[str, Any]:
        """For `weights.json`."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "values": {kind: f"{total:016x}" for kind, total in self.values.items()},
            "placed": None
            if self.placed is None
            else {kind: f"{total:016x}" for kind, total in self.placed.items()},
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Fingerprint:
        """What `as_json` gave.

        Raises:
            KeyError: an entry of another version.
        """
        placed = entry["placed"]
        return cls(
            entry["dtype"],
            tuple(entry["shape"]),
            {kind: int(entry["values"][kind], 16) for kind in ROUNDED_TO},
            None if placed is None else {kind: int(placed[kind], 16) for kind in ROUNDED_TO},
        )


def joined(parts: Sequence[Fingerprint]) -> Fingerprint:
    """Of the tensor that these are, one behind the other along the first axis."""
    together = total(parts)
    tails = {part.shape[1:] for part in parts}
    shape = together.shape
    if len(tails) == 1 and all(part.shape for part in parts):
        shape = (sum(part.shape[0] for part in parts), *tails.pop())
    weight, shares = 1, []
    for part in parts:
        if part.placed is None:
            return replace(together, shape=shape)
        shares.append({kind: weight * part.placed[kind] for kind in ROUNDED_TO})
        weight = weight * pow(PLACE, part.numel, MODULUS) % MODULUS
    return replace(together, shape=shape, placed=_sums(shares))


def total(parts: Sequence[Fingerprint]) -> Fingerprint:
    """Of all elements of these, in any order."""
    numel = sum(part.numel for part in parts)
    return Fingerprint(_widest(parts), (numel,), _sums([part.values for part in parts]), None)


def fingerprint_array(array: NDArray[Any]) -> Fingerprint:
    """The definition, in numpy.

    `engines.fingerprint` does the same for torch, on the tensor's device.
    """
    flat = np.ascontiguousarray(array).astype(np.float32).reshape(-1)
    place = np.full(flat.size, PLACE, np.uint64)
    place[:1] = 1
    weights = np.multiply.accumulate(place)
    mixed = {kind: _mixed(_rounded(flat, kind)) for kind in ROUNDED_TO}
    return Fingerprint(
        str(array.dtype),
        array.shape,
        {kind: int(bits.sum(dtype=np.uint64)) for kind, bits in mixed.items()},
        {kind: int((bits * weights).sum(dtype=np.uint64)) for kind, bits in mixed.items()},
    )


def _mixed(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Of each value's bits, as a signed number of 64 bits."""
    bits = values.view(np.int32).copy()
    exponent = bits & EXPONENT
    bits[exponent == 0] = 0
    bits[np.isnan(values)] = QUIET_NAN
    mixed = bits.astype(np.int64).view(np.uint64)
    for multiplier, shift in zip(MULTIPLIERS, SHIFTS, strict=True):
        mixed = mixed * np.uint64(multiplier)
        mixed ^= mixed >> np.uint64(shift)
    return mixed


def _rounded(values: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """To the nearest value that `kind` holds, ties to even."""
    if kind == "float32":
        return values
    if kind == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return np.where(np.isnan(values), values, bits.astype(np.uint32).view(np.float32))


def _sums(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {kind: sum(part[kind] for part in parts) % MODULUS for kind in ROUNDED_TO}


def _widest(parts: Sequence[Fingerprint]) -> str:
    """What these are held in as one tensor."""
    kinds = {part.dtype for part in parts}
    return kinds.pop() if len(kinds) == 1 else "float32"


def _rounding(dtype: str) -> str:
    """The column in which values held in `dtype` are as they are."""
    return dtype if dtype in ROUNDED_TO else "float32"
