"""Write a run's report: one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mismatch_lab import __version__
from mismatch_lab.reporting import numbers
from mismatch_lab.reporting.page import page_context
from mismatch_lab.reporting.run_files import read_run
from mismatch_lab.reporting.text import unbroken, visible
from mismatch_lab.resources import reports_dir

FILE_NAME = "report.html"


def write_report(run_dir: Path) -> Path:
    """Render `run_dir` into `run_dir/report.html`, whole or not at all.

    Raises:
        InputError: `run_dir` holds no findings that this version reads.
    """
    html = render(page_context(read_run(run_dir)), reports_dir())
    path = run_dir / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.partial")
    # A lone surrogate cannot be written as UTF-8; everything else can.
    temporary.write_bytes(html.encode("utf-8", errors="replace"))
    temporary.replace(path)
    return path


def render(context: dict[str, Any], templates: Path) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe_to_see,
    )
    environment.filters |= {
        "number": numbers.number,
        "signed": numbers.signed,
        "count": numbers.count,
        "seconds": numbers.seconds,
        "value": numbers.estimate_value,
        "interval": numbers.interval,
        "percent": numbers.percent,
        "unbroken": unbroken,
    }
    script = (templates / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        **context,
        css=Markup((templates / "report.css").read_text(encoding="utf-8")),
        js=Markup(script),
        js_hash=_csp_hash(script),
        version=__version__,
    )


def _safe_to_see(value: object) -> object:
    """Applied to everything a template prints, before it is escaped."""
    return visible(value) if type(value) is str else value


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
