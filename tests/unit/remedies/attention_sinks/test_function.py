"""Sinks through each kernel of this machine, against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.attention_sinks.function import sink_attention
from mismatch_lab.remedies.attention_sinks.kernels import pick_kernel
from mismatch_lab.remedies.attention_sinks.kernels.torch_cpu import tiles
from mismatch_lab.remedies.attention_sinks.reference import attention_reference
from mismatch_lab.remedies.attention_sinks.spec import Spec, layout_of

HERE = ["math", "torch-cpu"]
SCALE = 0.25
# (queries of each document, keys of each, window): plain; packed; windows narrower and wider than a
# tile, across its border; and documents of which the beginning is in a cache.
CASES: dict[str, tuple[list[int], list[int], int | None]] = {
    "plain": ([37], [37], None),
    "packed": ([5, 1, 40, 17], [5, 1, 40, 17], None),
    "window": ([37], [37], 4),
    "packed-window": ([5, 1, 300], [5, 1, 300], 50),
    "wide-window": ([290], [290], 140),
    "cached": ([3, 1], [40, 7], None),
    "cached-window": ([3, 1], [40, 7], 5),
}
HARDEST = ("packed-window", "cached-window")  # tried in every dtype, the others in float64
LIMITS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 0.008, torch.float16: 0.001}

Run = Callable[..., list[Tensor]]
Errors = Callable[[list[Tensor], list[Tensor]], list[float]]
Problem = Callable[..., tuple[list[Tensor], Tensor]]


def specification(case: str) -> Spec:
    q_lengths, k_lengths, window = CASES[case]
    return Spec(layout_of(q_lengths, k_lengths), SCALE, window)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case in CASES for dtype in LIMITS if dtype.itemsize == 8 or case in HARDEST],
)
@pytest.mark.parametrize("kernel", HERE)
def test_outputs_and_gradients_are_those_of_the_definition(
    kernel: str, case: str, dtype: torch.dtype, problem: Problem, run: Run, errors: Errors
) -> None:
    spec = specification(case)
    inputs, dout = problem(int(spec.layout.cu_q[-1]), int(spec.layout.cu_k[-1]), dtype)
    got = run(partial(sink_attention, spec=spec, kernel=kernel), inputs, dout)
    wide = [x.double() for x in inputs]
    true = run(partial(attention_reference, spec=spec), wide, dout.double())
    found = dict(zip(["out", "dq", "dk", "dv", "dsinks"], errors(got, true), strict=True))
    assert max(found.values()) < LIMITS[dtype], found


@pytest.mark.parametrize("key_heads", [1, 4])
def test_any_number_of_key_heads(
    key_heads: int, problem: Problem, run: Run, errors: Errors
) -> None:
    inputs, dout = problem(20, 20, torch.float64, key_heads=key_heads)
    spec = Spec(layout_of([20]), SCALE, 6)
    got = run(partial(sink_attention, spec=spec), inputs, dout)
    true = run(partial(attention_reference, spec=spec), inputs, dout)
    assert max(errors(got, true)) < LIMITS[torch.float64]


def test_one_key_by_hand() -> None:
    """S = 0, s = 0: p = 1/2, out = v/2 = 1; D = dout·out = 3, ds = -p D = -3/2; dv = dout/2.

    dS = P (dP - D) = (1/2) (3·2 - 3) = 3/2, and dq = dS k scale = 3/2 · 5 · 1.
    """
    q, k, v = (torch.full((1, 1, 1), x, requires_grad=True) for x in (0.0, 5.0, 2.0))
    sinks = torch.zeros(1, requires_grad=True)
    out = sink_attention(q, k, v, sinks, Spec(layout_of([1]), scale=1.0))
    out.backward(torch.full_like(out, 3.0))
    assert out.item() == pytest.approx(1.0)
    for leaf, expected in ((sinks, -1.5), (v, 1.5), (q, 7.5)):
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(expected)


def test_gradcheck_of_the_definition_and_of_the_function(problem: Problem) -> None:
    spec = Spec(layout_of([3, 1]), SCALE, 2)
    inputs, _ = problem(4, 4, torch.float64, heads=2, key_heads=1, width=2)
    leaves = [x.requires_grad_() for x in inputs]
    for attend in (attention_reference, partial(sink_attention, kernel="math")):
        assert torch.autograd.gradcheck(partial(attend, spec=spec), leaves)


def test_a_sink_without_weight_is_no_sink(problem: Problem) -> None:
    inputs, _ = problem(12, 12, torch.float64)
    q, k, v, sinks = inputs
    spec = Spec(layout_of([12]), SCALE)
    plain, lse = pick_kernel("torch-cpu", q).forward(q, k, v, spec)  # type: ignore[union-attr]
    no_weight = sink_attention(q, k, v, torch.full_like(sinks, -1e4), spec)
    torch.testing.assert_close(no_weight, plain)
    # With weight, heads keep their direction and lose length: sigmoid(lse - s) of it is left.
    left = sink_attention(q, k, v, sinks, spec)
    torch.testing.assert_close(left, plain * torch.sigmoid(lse - sinks[:, None]).T[..., None])
    assert (left - plain).norm() > 0.1 * plain.norm()


@pytest.mark.parametrize("kernel", HERE)
def test_the_backward_without_sinks_would_be_wrong(
    kernel: str, problem: Problem, run: Run, errors: Errors
) -> None:
    """What handing the kernel its own lse and out back gives: the check above can fail."""
    inputs, dout = problem(12, 12, torch.float64)
    q, k, v, _ = inputs
    spec = Spec(layout_of([12]), SCALE)
    row: Any = pick_kernel(kernel, q)
    out, lse = row.forward(q, k, v, spec)
    own = row.backward(dout, q, k, v, out, lse, spec)
    true = run(partial(attention_reference, spec=spec), inputs, dout)
    assert min(errors(list(own), true[1:4])) > 0.1


def test_a_backward_that_takes_dlse_says_the_same(problem: Problem) -> None:
    """The long way round of the package's docstring: `exp(S - lse) ∘ (c dP - (c D - dlse))`."""
    (q, k, v, sinks), dout = problem(9, 9, torch.float64, heads=1, key_heads=1)
    spec = Spec(layout_of([9]), SCALE)
    leaf = q.requires_grad_()
    out = sink_attention(leaf, k, v, sinks, spec)
    (dq,) = torch.autograd.grad(out, leaf, dout)
    q, k, v, dout = (x[:, 0].detach() for x in (q, k, v, dout))
    hidden = torch.ones(9, 9).triu(1).bool()
    scores = (q @ k.T * SCALE).masked_fill(hidden, -torch.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    p = (scores - lse).exp()
    c = torch.sigmoid(lse - sinks)
    dot = (dout * (p @ v)).sum(-1, keepdim=True)
    ds = p * (c * (dout @ v.T) - (c * dot - c * (1 - c) * dot))
    torch.testing.assert_close(ds @ k * SCALE, dq[:, 0])


def test_a_window_needs_memory_linear_in_length(problem: Problem) -> None:
    """10 000 tokens, window 100: no tile's mask has more than 128 x (128 + 99) entries."""
    (q, *_), _ = problem(1, 1, torch.float32)
    cut = list(tiles(Spec(layout_of([10_000]), SCALE, 100)))
    masks = [tile.mask(q, 100) for tile in cut]
    assert max(mask.numel() for mask in masks if mask is not None) == 128 * 227
    assert sum(tile.rows.stop - tile.rows.start for tile in cut) == 10_000


def test_what_does_not_go_together_is_refused(problem: Problem) -> None:
    (q, k, v, sinks), _ = problem(8, 8, torch.float32)
    spec = Spec(layout_of([8]), SCALE)
    with pytest.raises(InputError, match="4 query heads and sinks of shape"):
        sink_attention(q, k, v, sinks[:2], spec)
    with pytest.raises(InputError, match="do not go together"):
        sink_attention(q[:, :3], k, v, sinks[:3], spec)
    with pytest.raises(InputError, match=r"are torch.float64, torch.float32"):
        sink_attention(q.double(), k, v, sinks, spec)
    with pytest.raises(InputError, match="torch-cuda cannot be used: it needs a CUDA GPU"):
        sink_attention(q, k, v, sinks, spec, kernel="torch-cuda")
    with pytest.raises(InputError, match="flash-attn-4 is not installed"):
        sink_attention(q, k, v, sinks, spec, kernel="flash-attn-4")
    with pytest.raises(InputError, match="Unknown attention kernel 'flash'"):
        sink_attention(q, k, v, sinks, spec, kernel="flash")
