"""Verifiable instructions: one function each, in a table under IFEval's own ids.

After "Instruction-Following Evaluation for Large Language Models" (Zhou et al. 2023); names,
arguments and meanings are those of its data, so that its rows, and the training rows that use the
same ids (Pyatkin et al. 2025), can be read as they are. Written anew, with these differences: words
are matched as text and not as regular expressions; sentences are counted by their final
punctuation and not by a trained splitter; the language of an answer is not checked (neither on its
own nor for the two casing instructions). Ids that begin with `extra:` are not in IFEval.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.tasks.base import Instruction
from mismatch_lab.trainer.tasks.checkers import counts, layout, wording

__all__ = ["CHECKERS", "Checker", "check_instruction", "follows"]

Checker = Callable[..., bool]
"""`(text, **arguments) -> followed`"""

CHECKERS: dict[str, Checker] = {
    # wording
    "keywords:existence": wording.has_keywords,
    "keywords:forbidden_words": wording.avoids_words,
    "punctuation:no_comma": wording.has_no_comma,
    "change_case:english_capital": wording.is_upper_case,
    "change_case:english_lowercase": wording.is_lower_case,
    "startend:end_checker": wording.ends_with,
    "startend:quotation": wording.is_quoted,
    "combination:repeat_prompt": wording.repeats_prompt,
    "extra:start": wording.starts_with,
    # counts
    "keywords:frequency": counts.keyword_count,
    "keywords:letter_frequency": counts.letter_count,
    "change_case:capital_word_frequency": counts.capital_word_count,
    "length_constraints:number_words": counts.word_count,
    "length_constraints:number_sentences": counts.sentence_count,
    "extra:number_characters": counts.character_count,
    # layout
    "length_constraints:number_paragraphs": layout.has_paragraphs,
    "length_constraints:nth_paragraph_first_word": layout.paragraph_begins,
    "detectable_content:number_placeholders": layout.has_placeholders,
    "detectable_content:postscript": layout.has_postscript,
    "detectable_format:number_bullet_lists": layout.has_bullets,
    "detectable_format:number_highlighted_sections": layout.has_highlights,
    "detectable_format:multiple_sections": layout.has_sections,
    "detectable_format:title": layout.has_title,
    "detectable_format:json_format": layout.is_json,
    "detectable_format:constrained_response": layout.is_fixed_answer,
    "combination:two_responses": layout.has_two_responses,
}


def check_instruction(instruction: Instruction) -> None:
    """Raise InputError unless the instruction has a checker and just the arguments it takes."""
    if instruction.id not in CHECKERS:
        raise InputError(
            f"No checker for the instruction {instruction.id!r}.",
            f"Available: {', '.join(sorted(CHECKERS))}.",
        )
    try:
        inspect.signature(CHECKERS[instruction.id]).bind("", **instruction.arguments)
    except TypeError as error:
        raise InputError(f"The instruction {instruction.id}: {error}.") from error


def follows(text: str, instruction: Instruction) -> bool:
    """Whether an answer follows an instruction; an empty one follows none (as in IFEval)."""
    return bool(text.strip()) and CHECKERS[instruction.id](text, **instruction.arguments)
