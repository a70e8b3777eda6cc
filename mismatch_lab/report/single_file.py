"""What all pages share: the surroundings of a template, and a file that is there whole."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mismatch_lab import __version__
from mismatch_lab.report import numbers
from mismatch_lab.report.text import unbroken, visible

FILTERS: dict[str, Callable[..., str]] = {
    "number": numbers.number,
    "signed": numbers.signed,
    "count": numbers.count,
    "seconds": numbers.seconds,
    "value": numbers.estimate_value,
    "interval": numbers.interval,
    "percent": numbers.percent,
    "unbroken": unbroken,
}


def render_page(
    template: str,
    templates: Path,
    context: dict[str, Any],
    filters: dict[str, Callable[..., str]] | None = None,
) -> str:
    """A page as text; its templates see `css`, `js` with its hash, and `version` beside `context`.

    Args:
        template: its name in `templates`.
        templates: the folder, with `report.css` and `report.js`.
        context: what the template names.
        filters: beside `FILTERS`.
    """
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe_to_see,
    )
    environment.filters |= FILTERS | (filters or {})
    script = (templates / "report.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **context,
        css=style(templates, "report.css"),
        js=Markup(script),
        js_hash=_csp_hash(script),
        version=__version__,
    )


def style(templates: Path, name: str) -> Markup:
    """A style sheet as it stands in its file."""
    return Markup((templates / name).read_text(encoding="utf-8"))


def write_whole(path: Path, html: str) -> Path:
    """Write a page, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    # A lone surrogate cannot be written as UTF-8; everything else can.
    temporary.write_bytes(html.encode("utf-8", errors="replace"))
    temporary.replace(path)
    return path


def _safe_to_see(value: object) -> object:
    """Applied to everything a template prints, before it is escaped."""
    return visible(value) if type(value) is str else value


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
