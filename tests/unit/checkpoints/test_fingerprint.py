"""Fingerprints tell weights apart by their bits, and add up over stacked tensors."""

from __future__ import annotations

import pytest
import torch

from mismatch_lab.captures.fingerprint import (
    MODULUS,
    MULTIPLIERS,
    PLACE,
    SHIFTS,
    Fingerprint,
    fingerprint_array,
    joined,
    total,
)
from mismatch_lab.checkpoints.fingerprint import CPU_CHUNK, fingerprint_tensor, fingerprint_tensors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def of(*values: float, dtype: torch.dtype = torch.float32) -> Fingerprint:
    return fingerprint_tensor(torch.tensor(values, dtype=dtype))


def mixed(bits: int) -> int:
    for multiplier, shift in zip(MULTIPLIERS, SHIFTS, strict=True):
        bits = bits * multiplier % MODULUS
        bits ^= bits >> shift
    return bits


def adam_step(weight: torch.Tensor, lr: float) -> torch.Tensor:
    """Every weight by the learning rate, up or down."""
    generator = torch.Generator().manual_seed(1)
    return weight + lr * torch.randn(weight.shape, generator=generator).sign()


def test_by_hand() -> None:
    # 1.0 is 0x3F800000 and 2.0 is 0x40000000 in float32, in bfloat16 the same but the lower half.
    one, two = mixed(0x3F800000), mixed(0x40000000)
    found = of(1.0, 0.0, 2.0)
    assert found.values["float32"] == (one + two) % MODULUS  # 0 adds nothing
    assert found.placed is not None
    assert found.placed["float32"] == (one + two * PLACE**2) % MODULUS
    assert found.values["bfloat16"] == found.values["float16"] == found.values["float32"]
    assert of(1.0, 0.0, 2.0, dtype=torch.bfloat16).values == found.values
    # A negative number's bits are a negative number of 64 bits.
    assert of(-2.0).values["float32"] == mixed(0xFFFFFFFFC0000000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 7, CPU_CHUNK - 1, 5 * CPU_CHUNK + 3])
def test_torch_gives_what_the_definition_in_numpy_gives(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    spread = torch.exp(4 * torch.randn(count, generator=generator))
    tensor = (torch.randn(count, generator=generator) * spread).to(dtype)
    tensor[:1] = float("nan")
    found, defined = fingerprint_tensor(tensor), fingerprint_array(tensor.float().numpy())
    assert (found.values, found.placed) == (defined.values, defined.placed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lr", [1e-6, 1e-5, 1e-4])
def test_one_adam_step_shows(lr: float, dtype: torch.dtype) -> None:
    # In bfloat16 0.02 is on a grid of 2^-13 = 1.2e-4: a step of 1e-6 moves about 1 % of the values.
    weight = 0.02 * torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    old, new = weight.to(dtype), adam_step(weight, lr).to(dtype)
    assert not torch.equal(old, new)
    assert not fingerprint_tensor(old).agrees(fingerprint_tensor(new))


def test_one_unit_in_the_last_place_shows() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    next_one = weight.clone()
    next_one.view(torch.int32)[3, 5] += 1
    assert not fingerprint_tensor(weight).agrees(fingerprint_tensor(next_one))


def test_a_permutation_shows_in_the_places_alone() -> None:
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    one = fingerprint_tensor(weight)
    for other in (weight.flip(0), weight[:, [1, 0, 2, 3, 4, 5]], weight.roll(1)):
        found = fingerprint_tensor(other)
        assert found.values == one.values
        assert not found.agrees(one)
    # Rows of another length are another layout: there order says nothing.
    assert fingerprint_tensor(weight.T).agrees(one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stack_has_the_sums_of_its_parts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 7, generator=generator).to(dtype) for n in (6, 2, 2))
    parts = [fingerprint_tensor(part) for part in (q, k, v)]
    assert joined(parts) == fingerprint_tensor(torch.cat([q, k, v]))
    assert not joined([parts[1], parts[0], parts[2]]).agrees(joined(parts))
    assert total(parts).values == joined(parts).values
    # Experts one behind the other are the stack of them.
    experts = torch.randn(3, 4, 5, generator=generator).to(dtype)
    found = joined([fingerprint_tensor(expert) for expert in experts])
    assert found.agrees(fingerprint_tensor(experts))
    assert not found.agrees(fingerprint_tensor(experts.flip(0)))


def test_stacked_square_matrices_may_be_transposed() -> None:
    """GPT-OSS's experts in vLLM, also of a side that tells experts apart: [E * n, n]."""
    stacked = torch.randn(3, 4, 4)
    turned = stacked.transpose(1, 2).contiguous()
    assert fingerprint_tensor(stacked).agrees(fingerprint_tensor(turned))
    assert fingerprint_tensor(turned.reshape(12, 4)).agrees(fingerprint_tensor(stacked))
    assert not fingerprint_tensor(stacked + 1).agrees(fingerprint_tensor(turned))
    assert not fingerprint_tensor(stacked[0]).agrees(fingerprint_tensor(turned[0]))


def test_a_side_in_another_dtype_agrees_where_it_is_the_rounding() -> None:
    # 1 + 2^-9 lies between the bfloat16 numbers 1 and 1 + 2^-7.
    exact, rounded = of(1 + 2**-9, 3.0), of(1.0, 3.0, dtype=torch.bfloat16)
    assert exact.agrees(rounded)
    assert rounded.agrees(exact)
    assert not of(1 + 2**-7, 3.0).agrees(rounded)
    assert not of(3.0, 1 + 2**-9).agrees(rounded)  # places are those of the rounded values
    assert not exact.agrees(of(1.0, 3.0))  # both in float32: their bits
    # 1e-6 is no normal float16: an engine in float16 rounds a checkpoint in bfloat16.
    small = torch.tensor([1e-6, 2.0])
    assert fingerprint_tensor(small.bfloat16()).agrees(fingerprint_tensor(small.bfloat16().half()))


def test_zeros_and_nan_are_what_kernels_make_of_them() -> None:
    # A sum of products has no -0.0, and kernels flush 1e-40; a padded row of zeros adds nothing.
    assert of(1.0, 0.0, 2.0).agrees(of(1.0, -0.0, 2.0))
    assert of(1.0, 0.0, 2.0).agrees(of(1.0, 1e-40, 2.0))
    assert of(1.0, 2.0, 0.0, 0.0).agrees(of(1.0, 2.0))
    other_nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert fingerprint_tensor(other_nan).agrees(of(float("nan")))
    assert not of(float("nan")).agrees(of(0.0))


def test_eight_bits_and_float64_are_compared_as_float32() -> None:
    values = (1.0, -0.5, 448.0)
    assert of(*values, dtype=torch.float8_e4m3fn).agrees(of(*values))
    assert of(*values, dtype=torch.float64).agrees(of(*values))
    assert not of(1.0, -0.5, 447.0).agrees(of(*values, dtype=torch.float8_e4m3fn))


def test_only_real_floating_point_tensors_have_one() -> None:
    tensors = {
        "ids": torch.arange(3),
        "meta": torch.empty(3, device="meta"),
        "none": torch.empty(0),
    }
    assert fingerprint_tensors(tensors.items()) == {}
