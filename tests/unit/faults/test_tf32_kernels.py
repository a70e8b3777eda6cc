"""The fault by hand, and in training."""

import torch

from mismatch_lab.faults.tf32_kernels import cut


def test_bits_are_cut_off_and_gradients_pass() -> None:
    # 10 bits of mantissa: above 1 the steps are 2**-10, above 1024 they are 1.
    given = torch.tensor([1 + 2**-10 + 2**-11, -1 - 2**-11, 1024.75, 0.0], requires_grad=True)
    kept = cut(given)
    assert kept.tolist() == [1 + 2**-10, -1.0, 1024.0, 0.0]
    (gradient,) = torch.autograd.grad(kept.sum(), given)
    assert gradient.tolist() == [1.0] * 4
