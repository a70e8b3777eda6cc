"""Log-probs that belong to other tokens, and rows that see each other."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis, Search, TokenChange


def shift(clues: Clues) -> list[Hypothesis]:
    """Off by one, either way."""
    return [
        Hypothesis(
            "shift-by-one",
            "log-probs one place off",
            tokens=(TokenChange("shift"),),
            search=Search((-1.0, 1.0)),
        )
    ]


def terminal(clues: Clues) -> list[Hypothesis]:
    """The last token of every row says the same."""
    if clues.terminal_value is None:
        return []
    return [
        Hypothesis(
            "terminal-token",
            f"the last token of a row always carries {clues.terminal_value:g}",
            tokens=(TokenChange("terminal_constant", clues.terminal_value),),
        )
    ]


def packing(clues: Clues) -> list[Hypothesis]:
    """Rows of a micro-batch in one sequence without a wall between them."""
    if clues.suspect != "train" or clues.micro_batch < 2:
        return []
    return [
        Hypothesis(
            "packing-leak",
            "packed rows see the rows before them, positions running on",
            packing="leaky",
        ),
        Hypothesis(
            "packing-leak",
            "packed rows see the rows before them, positions restarted",
            packing="leaky_restarted",
        ),
    ]
