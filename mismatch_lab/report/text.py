"""Make every string from a model or a file safe to look at: nothing unseen, nothing reordered.

And the words for causes that terminal and page share.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

from mismatch_lab.schema import Cause

_SPACE = {" ": "·", "\n": "↵", "\t": "→"}
_KEPT = frozenset("\n\t")
# Format characters that joined scripts and emoji need; alone they change nothing around them.
_JOINERS = frozenset("\u200c\u200d")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """Spell out control, bidi, surrogate and unassigned characters as ⟨U+202E⟩; keep the rest.

    Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spell(character) for character in text)


def token_text(text: str) -> str:
    """A token as it is shown: also spaces, line breaks and tabs can be seen."""
    shown = "".join(_SPACE.get(character) or _spell(character) for character in text)
    return shown or "∅"


def unbroken(text: str) -> Markup:
    """Escaped text in which no line ends inside `|Δ|` or `|delta|`."""
    parts = re.split(r"(\|[^|\s]{1,12}\|)", visible(text))
    kept = (
        Markup('<span class="unbroken">{}</span>').format(part) if at % 2 else escape(part)
        for at, part in enumerate(parts)
    )
    return Markup("").join(kept)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the middle left out."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _spell(character: str) -> str:
    if character in _KEPT or character in _JOINERS:
        return character
    if unicodedata.category(character) in _UNSEEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character


DONE_TO = {
    "side": "",
    "unseen rows": ", on rows that nothing was fitted on",
    "record": ", in what was recorded",
}
"""`Confirmation.by`, as a sentence about the two values goes on."""


def tied(causes: list[Cause]) -> list[Cause]:
    """Causes that nothing observed tells apart: equal confidence, and an experiment to decide.

    Two faults at once may be equally certain too; there is then nothing to decide.
    """
    undecided = next((cause for cause in causes if cause.decides), None)
    if undecided is None:
        return []
    equal = [cause for cause in causes if cause.confidence == undecided.confidence]
    return equal if len(equal) > 1 else []
