"""A headless Chromium, and reports of synthetic runs opened in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The builders of synthetic runs:
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "report"))

from build_run import BUILDERS

from mismatch_lab.report.page import write_report

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Opened:
    """A report in the browser, with everything that should not have happened."""

    page: Page
    trouble: list[str] = field(default_factory=list)


Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; the `browser` marker has skipped or failed where there is none.

    Not of the session: until it is closed, Playwright's event loop runs in this thread, and tests
    of other files would find it there.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The address of a synthetic run's report."""

    @cache
    def build(name: str) -> str:
        folder = tmp_path_factory.mktemp("browser") / name
        BUILDERS[name](folder)
        return write_report(folder).as_uri()

    return build


@pytest.fixture
def open_report(browser: Browser, report: Callable[[str], str]) -> Open:
    """Open a report; leaving the block fails on console errors, dialogs and requests."""

    @contextmanager
    def opening(name: str, width: int = 1200, **context: Any) -> Iterator[Opened]:
        address = report(name)
        session = browser.new_context(viewport={"width": width, "height": 800}, **context)
        opened = Opened(session.new_page())
        page, trouble = opened.page, opened.trouble
        page.set_default_timeout(20_000)
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda r: None if r.url == address else trouble.append(r.url))

        def dismiss(dialog: Any) -> None:
            trouble.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.goto(address)
        try:
            yield opened
        finally:
            session.close()
        assert trouble == []

    return opening
