import pytest

from mismatch_lab.report.text import shorten, token_text, unbroken, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a", "·a"),
        ("\n\n", "↵↵"),
        ("\t", "→"),
        ("", "∅"),
        ("\x00", "⟨U+0000⟩"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u2028", "⟨U+2028⟩"),
        ("שלום 北京 é", "שלום·北京·é"),
    ],
)
def test_token_text_hides_nothing(text: str, shown: str) -> None:
    assert token_text(text) == shown


def test_visible_keeps_lines_but_spells_out_controls() -> None:
    assert visible("a b\n\tc\r\x1b[0m") == "a b\n\tc⟨U+000D⟩⟨U+001B⟩[0m"


def test_unbroken_escapes_what_it_marks() -> None:
    assert unbroken("<b> |Δ| | |<i>|") == (
        '&lt;b&gt; <span class="unbroken">|Δ|</span> | <span class="unbroken">|&lt;i&gt;|</span>'
    )


def test_shorten_keeps_both_ends() -> None:
    # 7 characters: 3 of the head, the ellipsis, 3 of the tail.
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("abcdefg", 7) == "abcdefg"
