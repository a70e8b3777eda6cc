"""Write a run's report: one HTML file that asks for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.report.page import page_context
from mismatch_lab.report.run_files import read_run
from mismatch_lab.report.single_file import render_page, write_whole
from mismatch_lab.resources import reports_dir

FILE_NAME = "report.html"


def write_report(run_dir: Path) -> Path:
    """Render `run_dir` into `run_dir/report.html`, whole or not at all.

    Raises:
        InputError: `run_dir` holds no findings that this version reads.
    """
    html = render(page_context(read_run(run_dir)), reports_dir())
    return write_whole(run_dir / FILE_NAME, html)


def render(context: dict[str, Any], templates: Path) -> str:
    """The page as text."""
    return render_page("report.html.j2", templates, context)
