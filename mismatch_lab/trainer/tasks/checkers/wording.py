"""Instructions about which words and letters an answer has, and how it begins and ends."""

from __future__ import annotations

import re
from collections.abc import Sequence


def has_keywords(text: str, *, keywords: Sequence[str]) -> bool:
    """All keywords occur, also inside of words, in any casing."""
    return all(keyword.casefold() in text.casefold() for keyword in keywords)


def avoids_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a whole word, in any casing."""
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words
    )


def has_no_comma(text: str) -> bool:
    """No comma anywhere."""
    return "," not in text


def is_upper_case(text: str) -> bool:
    """Has letters, and all of them are capitals."""
    return text.isupper()


def is_lower_case(text: str) -> bool:
    """Has letters, and none of them is a capital."""
    return text.islower()


def starts_with(text: str, *, start_phrase: str) -> bool:
    """Begins with the phrase, casing and all (what follows may be part of the same word)."""
    return text.lstrip().startswith(start_phrase.strip())


def ends_with(text: str, *, end_phrase: str) -> bool:
    """Ends with the phrase, in any casing; closing quotation marks do not count."""
    return text.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


def is_quoted(text: str) -> bool:
    """Stands in double quotation marks as a whole."""
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def repeats_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """Begins with the request, word for word, in any casing."""
    return text.strip().casefold().startswith(prompt_to_repeat.strip().casefold())
