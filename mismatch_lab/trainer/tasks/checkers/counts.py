"""Instructions that count: so many words, letters, sentences, `less than` or `at least`."""

from __future__ import annotations

import re

from mismatch_lab.errors import InputError

_WORD = re.compile(r"\w+")
# A sentence ends in . ! or ?, perhaps with closing quotes or brackets, before a space or the end.
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
_HYPHENATED_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def compare(n: int, relation: str, threshold: int) -> bool:
    """`n` is `less than` or `at least` the threshold.

    Raises:
        InputError: the relation is another one.
    """
    if relation == "less than":
        return n < threshold
    if relation == "at least":
        return n >= threshold
    raise InputError(f"Unknown relation {relation!r}.", "It is 'less than' or 'at least'.")


def keyword_count(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """How often the keyword occurs, also inside of words, in any casing."""
    return compare(text.casefold().count(keyword.strip().casefold()), relation, frequency)


def letter_count(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """How often the letter occurs, in any casing."""
    return compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def capital_word_count(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """How many words are all capitals; a hyphenated word is one."""
    capitals = sum(word.isupper() for word in _HYPHENATED_WORD.findall(text))
    return compare(capitals, capital_relation, capital_frequency)


def word_count(text: str, *, num_words: int, relation: str) -> bool:
    """How many words: runs of letters, digits and underscores."""
    return compare(len(_WORD.findall(text)), relation, num_words)


def sentence_count(text: str, *, num_sentences: int, relation: str) -> bool:
    """How many sentences; text after the last full stop is one more."""
    ends = list(_SENTENCE_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return compare(len(ends) + bool(rest.strip()), relation, num_sentences)


def character_count(text: str, *, num_characters: int, relation: str) -> bool:
    """How many characters, without space around the answer."""
    return compare(len(text.strip()), relation, num_characters)
