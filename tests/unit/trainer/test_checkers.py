"""Every checker of the table says yes where it should, and no where it should."""

from __future__ import annotations

from typing import Any

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.tasks.base import Instruction
from mismatch_lab.trainer.tasks.checkers import CHECKERS, check_instruction, follows

Case = tuple[str, dict[str, Any], list[str], list[str]]

# id, arguments, answers that follow, answers that do not
CASES: list[Case] = [
    (
        "keywords:existence",
        {"keywords": ["apple", "tree"]},
        ["An Apple under trees.", "tree apple"],
        ["An apple.", "Nothing."],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["so", "a.c"]},
        ["It solves itself.", "abc"],
        ["So be it.", "and so", "an a.c here"],
    ),
    ("punctuation:no_comma", {}, ["One. Two."], ["One, two."]),
    ("change_case:english_capital", {}, ["ALL OF IT, 1."], ["ALL OF it", "123"]),
    ("change_case:english_lowercase", {}, ["all of it, 1."], ["All of it", "123"]),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ["Yes. any other QUESTIONS?", 'Yes. Any other questions?"  '],
        ["Any other questions? No.", "Yes."],
    ),
    ("startend:quotation", {}, ['"Yes."', ' "a" and "b" '], ['"Yes.', "Yes.", '"']),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Why is it so?"},
        ["why is it so? Because."],
        ["Because. Why is it so?"],
    ),
    ("extra:start", {"start_phrase": "So"}, ["So it is.", "  So"], ["so it is.", "It is So."]),
    (
        "keywords:frequency",
        {"keyword": "ha", "frequency": 3, "relation": "at least"},
        ["ha ha HA", "hahaha"],
        ["ha ha", "no"],
    ),
    (
        "keywords:frequency",
        {"keyword": "ha", "frequency": 3, "relation": "less than"},
        ["ha ha", "no"],
        ["ha ha HA"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 2, "let_relation": "at least"},
        ["Eve", "eerie"],
        ["one", "b"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["IT is SO", "I am A-B"],  # a hyphenated word is one: I, A-B
        ["IT is so", "A-B"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "less than"},
        ["one two three", "3 + 4 = 7"],  # signs are no words
        ["one two three four"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", 'He said "One." Two. And three'],
        ["One. Two.", "3.5 is 1 number. Two.", "Wait... what?"],
    ),
    (
        "extra:number_characters",
        {"num_characters": 5, "relation": "less than"},
        ["four", " four "],
        ["fives"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one *** two", "one\n***\ntwo\n***\n", "***one***two"],
        ["one", "one *** *** two", "*** *** one *** two"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        ["One.\n\nThen two.", "One.\n\n'Then, two."],
        ["Then one.\n\nTwo.", "One.\n\nThen.\n\nThree.", "Then"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [place]", "[a][b][c]"],
        ["[name]", "name"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Yes.\nP.S. No.", "p. s. maybe"],
        ["Yes.", "PS no"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Yes.\nP.P.S no"],
        ["Yes.\nP.S. no"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "- one\n  * two"],
        ["* one", "* one\n* two\n* three", "** one\n** two"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*"],
        ["*one*", "** ** and * *", "**one**"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2 SECTION3"],
        ["SECTION 1\na", "Section 1 Section 2"],
    ),
    ("detectable_format:title", {}, ["<<On sinks>>\nText."], ["On sinks", "<< >>", "<<a\nb>>"]),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "3"],
        ["{'a': 1}", "a: 1", "```json\n{\n```", "[" * 100_000],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["Well. My answer is yes.", "My answer is maybe."],
        ["My answer is perhaps.", "yes"],
    ),
    (
        "combination:two_responses",
        {},
        ["one ****** two", "one******two******"],
        ["one", "one ****** one", "one ****** ****** two", "a ****** b ****** c"],
    ),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_checker(name: str, arguments: dict[str, Any], good: list[str], bad: list[str]) -> None:
    instruction = Instruction(name, arguments)
    check_instruction(instruction)
    assert [text for text in good if not follows(text, instruction)] == []
    assert [text for text in bad if follows(text, instruction)] == []
    assert not follows("", instruction)
    assert not follows(" \n", instruction)


def test_every_checker_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(CHECKERS)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("language:response_language", {"language": "de"}, "No checker for the instruction"),
        ("keywords:existence", {}, "missing a required"),
        ("keywords:existence", {"keywords": ["a"], "colour": 1}, "unexpected keyword"),
    ],
)
def test_wrong_instruction(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_instruction(Instruction(name, arguments))


def test_unknown_relation() -> None:
    arguments = {"num_words": 4, "relation": "exactly"}
    with pytest.raises(InputError, match="exactly"):
        follows("text", Instruction("length_constraints:number_words", arguments))
