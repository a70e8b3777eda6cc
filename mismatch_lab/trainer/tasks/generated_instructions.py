"""Instructions that the embedded model follows by chance now and then, so that RL can raise it.

They are about what it is free in: the word that opens a step (`so`, `now`, `then`, `next,`,
`thus`, or none), how a step is put, and so its length. One way of writing follows all of them (no
opener, few words), so that minutes of training suffice; to follow instructions that pull
in different directions takes a larger model. Each stands in the system message, where the model had
one in a fifth of its training; behind the question it loses the thread.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mismatch_lab.mini import problems as mini
from mismatch_lab.trainer.tasks.base import Instruction, Problem

OPENERS = ("so", "now", "then", "next", "thus")
# One of the two to four ways in which the first step of a story may be put has this word.
STORY_WORDS = {
    "collection": ("has",),
    "boxes": ("hold",),
    "shop": ("cost",),
    "compare": ("has",),
    "share": ("gets",),
    "reading": ("reads", "walks", "solves"),
}
SPARE_CHARACTERS = 4
"""More than the problem's own solution without openers: many ways to put it are longer."""
Said = tuple[Instruction, str]
"""An instruction, and how it is put to the model."""


def no_comma(problem: mini.Problem, rng: Random) -> Said:
    """Only `next,` has one."""
    return Instruction("punctuation:no_comma"), "Do not use commas."


def use(problem: mini.Problem, rng: Random) -> Said:
    """A word of the story's own."""
    word = next(word for word in STORY_WORDS[problem.story] if _may_use(word, problem))
    return Instruction("keywords:existence", {"keywords": [word]}), f"Use the word {word}."


def avoid(problem: mini.Problem, rng: Random) -> Said:
    """Three of the five openers."""
    words = sorted(rng.sample(OPENERS, 3))
    said = f"Do not use the words {words[0]}, {words[1]} and {words[2]}."
    return Instruction("keywords:forbidden_words", {"forbidden_words": words}), said


def short(problem: mini.Problem, rng: Random) -> Said:
    """Little longer than the solution needs to be."""
    lines = [without_opener(line) for line in problem.solution.splitlines()]
    n = len("\n".join(lines)) + SPARE_CHARACTERS
    arguments = {"num_characters": n, "relation": "less than"}
    return Instruction("extra:number_characters", arguments), f"Use less than {n} characters."


KINDS: dict[str, Callable[[mini.Problem, Random], Said]] = {
    "no-comma": no_comma,
    "use": use,
    "avoid": avoid,
    "short": short,
}


def without_opener(step: str) -> str:
    """The step without the word that opens it, if one does."""
    first, _, rest = step.partition(" ")
    return rest[:1].upper() + rest[1:] if first.rstrip(",").lower() in OPENERS else step


def instructed(problem: mini.Problem) -> Problem:
    """A word problem with one instruction, chosen by the problem itself."""
    rng = Random(f"instruction:{problem.question}")
    kind = rng.choice(sorted(KINDS))
    instruction, said = KINDS[kind](problem, rng)
    messages = (
        {"role": "system", "content": said},
        {"role": "user", "content": problem.question},
    )
    return Problem(messages, str(problem.answer), (instruction,), kind)


def _may_use(word: str, problem: mini.Problem) -> bool:
    """Of a story with several verbs, the one that it has."""
    return len(STORY_WORDS[problem.story]) == 1 or f" {word} " in problem.question
