"""Instructions about the form of an answer: paragraphs, lists, sections, titles, JSON."""

from __future__ import annotations

import json
import re

_FIXED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}


def _filled(parts: list[str]) -> list[str] | None:
    """The parts without an empty first or last one; None where another one is empty."""
    inner = [part.strip() for part in parts]
    inner = inner[not inner[0] :]
    inner = inner[: len(inner) - (not inner[-1])] if inner else inner
    return inner if all(inner) else None


def has_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, divided by `***`, none of them empty."""
    paragraphs = _filled(text.split("***"))
    return paragraphs is not None and len(paragraphs) == num_paragraphs


def paragraph_begins(
    text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Exactly so many paragraphs, divided by empty lines, and the nth begins with the word."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    words = re.findall(r"[^\s.,?!'\"]+", paragraphs[nth_paragraph - 1])
    return bool(words) and words[0].lower() == first_word.lower()


def has_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many placeholders: `[name]`."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def has_postscript(text: str, *, postscript_marker: str) -> bool:
    """Has a postscript with this marker; `P.S.` and `P.P.S` may have spaces in them."""
    marker = postscript_marker.strip()
    pattern = _POSTSCRIPTS.get(marker, re.escape(marker.lower()))
    return re.search(pattern, text.lower()) is not None


def has_bullets(text: str, *, num_bullets: int) -> bool:
    """Exactly so many bullet points: lines that begin with `*` (not `**`) or `-`."""
    return len(re.findall(r"^\s*(?:\*[^*]|-)", text, re.MULTILINE)) == num_bullets


def has_highlights(text: str, *, num_highlights: int) -> bool:
    """At least so many highlights: `*so*` or `**so**`."""
    found = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(part.strip("* ")) for part in found) >= num_highlights


def has_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each headed by the word and a number: `Section 1`."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def has_title(text: str) -> bool:
    """Has a title in double angle brackets: `<<title>>`."""
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", text))


def is_json(text: str) -> bool:
    """Is JSON as a whole, a Markdown fence around it or not."""
    fenced = re.fullmatch(r"```(?:json)?(.*?)(?:```)?", text.strip(), re.DOTALL | re.IGNORECASE)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def is_fixed_answer(text: str) -> bool:
    """Holds one of `My answer is yes.`, `… no.`, `… maybe.`."""
    return any(answer in text for answer in _FIXED_ANSWERS)


def has_two_responses(text: str) -> bool:
    """Two different answers, divided by `******`."""
    responses = _filled(text.split("******"))
    return responses is not None and len(responses) == 2 and responses[0] != responses[1]
