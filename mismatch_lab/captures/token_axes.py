"""Which axis of what a module takes and gives is the tokens: found out, not guessed from a shape.

[heads, tokens, d] and [tokens, heads, d] look alike where there are as many heads as tokens. So
sequences of two lengths are run: the axis that is as long as the sequence both times is the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

LENGTHS = (4, 7)
"""Tokens of the two sequences, where a row is as long."""

Shapes = dict[str, list[tuple[int, ...]]]
"""Key -> the shape of each call."""

NO_TOKENS = "none of its axes is the tokens"
SEVERAL = "several of its axes are as long as the sequence"
SHARED = "tokens share an axis with something else"
REPEATED = "it runs several times in one forward"


class TokenAxes:
    """Axes by key: `NAME` is a module's output, `NAME:in` its input."""

    def __init__(self) -> None:
        self.unclear: dict[str, str] = {}
        """Key -> why its axis is not known."""
        self._axis: dict[str, int] = {}
        self._seen: list[Shapes] = []

    @property
    def learning(self) -> bool:
        """Whether what is seen now serves to find the axes."""
        return bool(self._seen)

    def learn(self, length: int, run: Callable[[int], object]) -> None:
        """Find the axes.

        Args:
            length: of the sequence that is there to run, at least 2.
            run: runs its first so many tokens through the hooked model.
        """
        lengths, shapes = two_lengths(length), []
        for tokens in lengths:
            with self.watching() as seen:
                run(tokens)
            shapes.append(seen)
        self.conclude(lengths, shapes)

    def conclude(self, lengths: tuple[int, int], shapes: Sequence[Shapes]) -> None:
        """From what `watching` saw of two sequences of these lengths, the shorter first."""
        for key, calls in shapes[1].items():
            found = _axis_of(shapes[0].get(key, []), calls, lengths)
            if isinstance(found, int):
                self._axis[key] = found
            else:
                self.unclear[key] = found

    def see(self, key: str, tensor: Tensor) -> None:
        """Note what passes."""
        self._seen[-1].setdefault(key, []).append(tuple(tensor.shape))

    def flatten(self, key: str, tensor: Tensor, tokens: int) -> Tensor | None:
        """[tokens, D] of a tensor; None where the axis is not known, or not of so many tokens."""
        if key not in self._axis or tensor.dim() <= self._axis[key]:
            return None
        moved = tensor.movedim(self._axis[key], 0)
        return moved.reshape(tokens, -1) if len(moved) == tokens else None

    def unflatten(self, key: str, flat: Tensor, like: Tensor) -> Tensor:
        """The reverse: [tokens, D] in the shape of `like`."""
        shape = like.movedim(self._axis[key], 0).shape
        return flat.to(like).reshape(shape).movedim(0, self._axis[key]).contiguous()

    @contextmanager
    def watching(self) -> Iterator[Shapes]:
        """Inside it, one sequence runs through the hooked model; the shapes that passed."""
        seen: Shapes = {}
        self._seen.append(seen)
        try:
            yield seen
        finally:
            self._seen.pop()


def two_lengths(length: int) -> tuple[int, int]:
    """Of the sequences to watch, where one of `length` tokens, at least 2, is there to run."""
    longer = min(LENGTHS[1], length)
    return min(LENGTHS[0], longer - 1), longer


def _axis_of(
    short: list[tuple[int, ...]], long: list[tuple[int, ...]], lengths: tuple[int, int]
) -> int | str:
    """The axis, or why there is none."""
    if len(short) != 1 or len(long) != 1:
        return REPEATED
    if len(short[0]) != len(long[0]):
        return SHARED
    pairs = list(zip(short[0], long[0], strict=True))
    axes = [axis for axis, pair in enumerate(pairs) if pair == lengths]
    if len(axes) == 1:
        return axes[0]
    if axes:
        return SEVERAL
    return SHARED if any(a != b for a, b in pairs) else NO_TOKENS
