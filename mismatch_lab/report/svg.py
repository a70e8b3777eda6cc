"""Turn matplotlib's SVG into markup for the page: themed, no metadata, ids of its own."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

INK, MUTED, LINE, ACCENT, WARM, BAD = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606",
)  # fmt: skip
"""Colours to draw with; `themed` puts the page's variables in their place."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    ACCENT: "--accent",
    WARM: "--fair",
    BAD: "--bad",
}


def themed(svg: str, name: str, label: str) -> Markup:
    """Make a figure part of the page.

    Args:
        svg: a whole SVG document as matplotlib writes it, drawn in the colours above.
        name: unique in the page; put before every id, since two figures have the same ones.
        label: what a screen reader says instead of the picture.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    head, _, rest = body.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    opening = (
        f'<svg role="img" aria-label="{escape(label)}" {view_box.group()} '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(opening + rest.rstrip())  # matplotlib escaped the texts
