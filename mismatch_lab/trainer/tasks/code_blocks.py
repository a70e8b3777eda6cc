"""Python that an answer holds in fenced blocks, and the answer without it."""

from __future__ import annotations

import re

FENCE = "```"
# An unclosed block is one that the token limit cut: it is no program.
_BLOCK = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL)


def fenced(code: str) -> str:
    """A program as it stands in an answer."""
    return f"{FENCE}python\n{code}\n{FENCE}"


def program_in(answer: str) -> str | None:
    """All Python blocks of an answer as one program, in order; None where there is none."""
    blocks = _BLOCK.findall(answer)
    return "\n".join(blocks) if blocks else None


def text_after_code(answer: str) -> str:
    """What follows the last Python block; all of an answer that has none."""
    ends = [found.end() for found in _BLOCK.finditer(answer)]
    return answer[ends[-1] :] if ends else answer
