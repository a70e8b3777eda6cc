"""A synthetic run with its report, as text and as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_run import BUILDERS
from page_tree import Page

from mismatch_lab.report.page import write_report
from mismatch_lab.schema import Findings


@dataclass(frozen=True)
class Built:
    """What `build` made."""

    folder: Path
    findings: Findings
    html: str
    page: Page


def build(name: str, folder: Path) -> Built:
    """Make one of the runs in BUILDERS and write its report."""
    findings = BUILDERS[name](folder)
    html = write_report(folder).read_text(encoding="utf-8")
    return Built(folder, findings, html, Page.parse(html))
