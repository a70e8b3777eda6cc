r"""Final answers of math problems: how they are asked for, found in a completion, and compared.

A form is what a published harness uses:

- `hashes`: the number after the first `#### `, as GSM8K's own `extract_answer` has it
  (openai/grade-school-math, `dataset.py`), as lm-evaluation-harness (`gsm8k`, filter
  strict-match) and as verl (`reward_score/gsm8k.py`, method strict).
- `last-number`: the last number of the text (lm-evaluation-harness, `gsm8k`, flexible-extract).
- `boxed`: the last `\boxed{…}` (MATH, Hendrycks et al. 2021; verl's recipe for ReTool).
- `answer-line`: the last `Answer: …` (DAPO, Yu et al. 2025, whose problems ReTool trains on).

Answers are equal when they are the same string once `$`, thousands separators, spaces and a
final full stop are gone, as in all of these: 18 is not 18.00.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mismatch_lab.errors import InputError
from mismatch_lab.mini.problems import extract_answer

_NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*")
_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
_BOXED = "\\boxed{"


@dataclass(frozen=True)
class AnswerForm:
    """One way to give a final answer."""

    request: str
    """What is added to a question so that the answer comes in this form."""
    extract: Callable[[str], str | None]
    """The answer as it stands in a text; None where there is none."""


def normalise(answer: str) -> str:
    """Without `$`, thousands separators, spaces and a final full stop."""
    return re.sub(r"[$,\s]", "", answer).rstrip(".")


def same(found: str | None, answer: str) -> bool:
    """Whether an extracted answer is the right one."""
    return found is not None and normalise(found) == normalise(answer)


def last_number(text: str) -> str | None:
    """The last number, however it is marked."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}`, braces in it being balanced."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    first = start + len(_BOXED)
    depth = 1
    for end in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[first:end]
    return None


def last_answer_line(text: str) -> str | None:
    """What follows the last `Answer:` on its line."""
    found = _ANSWER_LINE.findall(text)
    return str(found[-1]).strip() if found else None


FORMS: dict[str, AnswerForm] = {
    # The request is the one of verl's examples/data_preprocess/gsm8k.py.
    "hashes": AnswerForm(
        'Let\'s think step by step and output the final answer after "####".', extract_answer
    ),
    "last-number": AnswerForm("Let's think step by step.", last_number),
    "boxed": AnswerForm(
        "Let's think step by step and put the final answer within \\boxed{}.", last_boxed
    ),
    "answer-line": AnswerForm(
        'Let\'s think step by step. Put the final answer on a last line of its own: "Answer: …".',
        last_answer_line,
    ),
}


def form_of(name: str) -> AnswerForm:
    """The form of this name.

    Raises:
        InputError: there is none.
    """
    if name not in FORMS:
        raise InputError(f"Unknown answer form {name!r}.", f"Available: {', '.join(FORMS)}.")
    return FORMS[name]
