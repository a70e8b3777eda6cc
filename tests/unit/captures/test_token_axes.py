"""The axis of the tokens, from what two sequences of other lengths look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mismatch_lab.captures.token_axes import NO_TOKENS, REPEATED, SEVERAL, SHARED, TokenAxes

Shape = tuple[int, ...]


def learned(*shapes: Callable[[int], Shape], length: int = 50) -> TokenAxes:
    """Axes of a key that is seen with these shapes in each forward."""
    axes = TokenAxes()

    def run(tokens: int) -> None:
        for shape in shapes:
            axes.see("x", torch.zeros(shape(tokens)))

    axes.learn(length, run)
    return axes


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (lambda n: (n, 8), 0),
        (lambda n: (1, n, 8), 1),
        (lambda n: (n, 7, 4), 0),  # as many heads as one of the two sequences has tokens
        (lambda n: (1, 4, n, 7), 2),
    ],
)
def test_the_axis_that_is_as_long_as_the_sequence_is_the_tokens(
    shape: Callable[[int], Shape], axis: int
) -> None:
    axes = learned(shape)
    assert axes.unclear == {}
    tensor = torch.randn(shape(5))
    flat = axes.flatten("x", tensor, 5)
    assert flat is not None
    for token in range(5):
        assert torch.equal(flat[token], tensor.select(axis, token).flatten())
    assert torch.equal(axes.unflatten("x", flat, torch.zeros(shape(5))), tensor)
    assert axes.flatten("x", tensor, 6) is None


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ([lambda _n: (4, 8)], NO_TOKENS),
        ([lambda n: (1, 3, n, n)], SEVERAL),  # scores of attention
        ([lambda n: (3 * n, 8)], SHARED),
        ([lambda n: (n, 8), lambda n: (n, 8)], REPEATED),
    ],
)
def test_what_cannot_be_told_is_said(shapes: list[Callable[[int], Shape]], why: str) -> None:
    axes = learned(*shapes)
    assert axes.unclear == {"x": why}
    assert axes.flatten("x", torch.zeros(4, 8), 4) is None


def test_two_tokens_are_enough() -> None:
    axes = learned(lambda n: (n, 8), length=2)
    assert axes.flatten("x", torch.zeros(2, 8), 2) is not None
