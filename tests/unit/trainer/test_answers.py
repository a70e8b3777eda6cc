"""Final answers: found and compared as the published harnesses do."""

from __future__ import annotations

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.tasks.answers import FORMS, form_of, normalise, same


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        ("hashes", "16 - 7 = 9\n#### 18", "18"),
        ("hashes", "#### 70,000", "70000"),
        ("hashes", "#### -3.", "-3"),
        ("hashes", "#### 18\n#### 19", "18"),  # GSM8K's extract_answer takes the first
        ("hashes", "the answer is 18", None),
        ("hashes", "####18", None),
        ("last-number", "first 3, then 18.", "18."),
        ("last-number", "it costs $1,250 in all", "$1,250"),
        ("last-number", "from 3 to -7", "-7"),
        ("last-number", "none", None),
        ("boxed", r"so \boxed{18}", "18"),
        ("boxed", r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{18", None),
        ("boxed", "18", None),
        ("answer-line", "Answer: 18\n", "18"),
        ("answer-line", "answer: 3\nAnswer:  18 ", "18"),
        ("answer-line", "18", None),
    ],
)
def test_answer_is_found(form: str, text: str, found: str | None) -> None:
    assert FORMS[form].extract(text) == found


@pytest.mark.parametrize(
    ("found", "answer", "right"),
    [
        ("18", "18", True),
        ("$1,250.", "1250", True),
        ("18", "180", False),
        ("18.00", "18", False),  # strings are compared, as published
        ("", "18", False),
        (None, "18", False),
    ],
)
def test_answers_are_compared(found: str | None, answer: str, right: bool) -> None:
    assert same(found, answer) is right


def test_normalise() -> None:
    assert normalise(" $ 1,234,567. ") == "1234567"


def test_unknown_form_lists_the_forms() -> None:
    with pytest.raises(InputError, match=r"Available: hashes, last-number, boxed, answer-line"):
        form_of("xml")
