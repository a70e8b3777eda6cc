"""What a terminal has room for and can show."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from mismatch_lab.report.text import visible

NEEDED = "▁█━─Δ‖·–−∞…"
"""An encoding that has these can show all that is written here."""
SPELT = str.maketrans(
    {"Δ": "delta", "‖": "||", "·": "-", "–": "-", "−": "-", "∞": "inf", "━": "#", "─": "-"}
)


@dataclass(frozen=True)
class Screen:
    """Columns and lines of a terminal, and its encoding."""

    width: int
    height: int
    encoding: str = "utf-8"

    @property
    def ascii_only(self) -> bool:
        """Whether blocks and mathematical signs cannot be shown."""
        try:
            NEEDED.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return True
        return False

    def spelt(self, text: str) -> str:
        """One line of the text, every character of which can be shown and seen."""
        line = visible(" ".join(text.splitlines())).replace("\t", " ")
        if not self.ascii_only:
            return line
        return line.translate(SPELT).encode("ascii", "replace").decode("ascii")

    def line(self, *parts: tuple[str, str]) -> Text:
        """The parts (text, style) one after the other, cut to the width; never wrapped."""
        text = Text.assemble(*((self.spelt(part), style) for part, style in parts), no_wrap=True)
        text.truncate(self.width, overflow="crop" if self.ascii_only else "ellipsis")
        return text
