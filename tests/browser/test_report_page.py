"""The report in a real browser: quiet, narrow, dark, on paper and without a mouse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Open
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# Every text against the nearest background behind it, as WCAG 2 computes contrast.
LOW_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === undefined || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *:not(script):not(style)")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    if (!text.length || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const svg = element instanceof SVGElement;
    const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.className} ${text[0].data.trim()}`);
  }
  return low;
}"""

# What sticks out to the right, unless it is inside something that scrolls by itself.
TOO_WIDE = """() => {
  const limit = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= limit) return [];
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > limit && !e.closest(".scroll"))
    .map((e) => e.outerHTML.slice(0, 120));
}"""


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("name", ["mismatch", "numerics", "underpowered", "error", "hostile"])
def test_no_sideways_scrolling_on_a_phone(open_report: Open, name: str) -> None:
    with open_report(name, width=360, is_mobile=True, has_touch=True) as opened:
        assert opened.page.evaluate(TOO_WIDE) == []
        opened.page.click("#expand")
        assert opened.page.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(open_report: Open, scheme: str) -> None:
    for name in ("mismatch", "numerics"):
        with open_report(name, color_scheme=scheme) as opened:
            opened.page.click("#expand")
            assert opened.page.evaluate(LOW_CONTRAST) == []


def test_theme_follows_the_system_until_the_switch_is_used(open_report: Open) -> None:
    with open_report("mismatch", color_scheme="dark") as opened:
        page = opened.page
        dark = background(page)
        assert dark == "rgb(20, 22, 26)"
        assert page.inner_text("#theme") == "Light theme"
        page.click("#theme")
        assert background(page) == "rgb(252, 252, 250)"
        assert page.inner_text("#theme") == "Dark theme"
        page.reload()
        assert background(page) == "rgb(252, 252, 250)"
        page.click("#theme")
        assert background(page) == dark


def test_hostile_text_runs_nothing_and_is_shown_in_details(open_report: Open) -> None:
    with open_report("hostile") as opened:
        page = opened.page
        page.click("#expand")
        chips = page.locator("button.tok", has_text="<script>").all()[:3]
        assert chips
        for chip in chips:
            chip.click()
            assert page.inner_text("#token-detail h4") == "</script><script>alert(1)</script>"
            page.keyboard.press("Escape")
        assert page.locator("main img, #token-detail script").count() == 0


def test_policy_stops_scripts_that_are_not_ours(open_report: Open) -> None:
    with open_report("match") as opened:
        page = opened.page
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            " document.body.append(s); }"
        )
        assert page.evaluate("window.bad") is None
        # Only the refusal itself was reported.
        assert len(opened.trouble) == 1
        assert "Content Security Policy" in opened.trouble.pop()


def test_keyboard_alone_reaches_the_answer_and_a_tokens_details(open_report: Open) -> None:
    with open_report("numerics") as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Enter")
        assert page.url.endswith("#answer")
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('.worst button.tok')"):
                break
        detail = page.locator("#token-detail")
        assert detail.is_visible()
        first = page.evaluate("document.activeElement.dataset.t")
        headline = page.inner_text(".worst li:first-child .sum b").removeprefix("Δ ")
        assert re.search(rf"delta\s+{re.escape(headline)}\n", detail.inner_text())
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.dataset.t") == str(int(first) - 1)
        assert detail.is_visible()
        assert page.locator("button.tok[aria-expanded=true]").count() == 1
        page.keyboard.press("Escape")
        assert not detail.is_visible()


def test_hover_previews_and_a_click_keeps_details(open_report: Open) -> None:
    with open_report("mismatch") as opened:
        page = opened.page
        chip, detail = page.locator(".worst button.focus").first, page.locator("#token-detail")
        chip.hover()
        assert detail.is_visible()
        page.mouse.move(1, 1)
        assert not detail.is_visible()
        chip.click()
        page.mouse.move(1, 1)
        assert detail.is_visible()
        page.click("h1")
        assert not detail.is_visible()


def test_a_tap_on_a_phone_opens_details_inside_the_screen(open_report: Open) -> None:
    with open_report("numerics", width=360, is_mobile=True, has_touch=True) as opened:
        chip = opened.page.locator(".worst button.focus").first
        opened.page.evaluate(  # near the lower edge, where the sheet would cover it
            "(chip) => scrollTo(0, chip.getBoundingClientRect().bottom - innerHeight + 40)",
            chip.element_handle(),
        )
        chip.tap()
        box = opened.page.locator("#token-detail").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] > 0
        assert box["y"] + box["height"] <= 801
        token = chip.bounding_box()
        assert token is not None
        assert token["y"] + token["height"] <= box["y"]


def test_copy_takes_the_whole_command(open_report: Open) -> None:
    with open_report("mismatch", permissions=["clipboard-read", "clipboard-write"]) as opened:
        page = opened.page
        page.locator("button[data-copy]").first.click()
        page.wait_for_function("document.querySelector('[data-copy]').textContent === 'Copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == "mismatch-lab diagnose --trainer-plugin fixes.py:with_sinks --depth deep"


def test_paper_is_light_and_shows_what_is_folded(open_report: Open) -> None:
    with open_report("numerics", color_scheme="dark", java_script_enabled=False) as opened:
        page = opened.page
        page.emulate_media(media="print", color_scheme="dark")
        folded = page.locator("details:not([open]) table")
        assert folded.count() > 3
        for table in folded.all():
            assert (table.bounding_box() or {"height": 0})["height"] > 20
        # Text stays dark: the page's own light scheme is used, whatever the screen had.
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 30, 33)"
        assert not page.locator("#theme").is_visible()


def test_without_scripts_everything_is_said_and_no_dead_button_is_shown(open_report: Open) -> None:
    with open_report("mismatch", java_script_enabled=False) as opened:
        page = opened.page
        assert page.locator("h1").is_visible()
        assert page.locator("button:visible:not(.tok)").count() == 0
        page.locator("#tokens summary", has_text="Show numbers").click()
        assert page.locator("#tokens table").first.is_visible()


def test_all_numbers_open_and_close_at_once(open_report: Open) -> None:
    with open_report("mismatch") as opened:
        page = opened.page
        page.click("#expand")
        assert page.locator("details:not([open])").count() == 0
        assert page.get_attribute("#expand", "aria-pressed") == "true"
        page.click("#expand")
        assert page.locator("details[open]").count() == 0


def test_first_column_stays_while_a_wide_table_scrolls(open_report: Open) -> None:
    with open_report("mismatch", width=360) as opened:
        shift = opened.page.evaluate(
            "() => { const box = document.querySelector('#edge-table').parentElement;"
            " const cell = box.querySelector('tbody th');"
            " const before = cell.getBoundingClientRect().left; box.scrollLeft = 200;"
            " return [box.scrollLeft, cell.getBoundingClientRect().left - before]; }"
        )
        assert shift == [200, 0]


def test_rows_show_both_sides_under_each_token(open_report: Open) -> None:
    with open_report("mismatch") as opened:
        page = opened.page
        chip = page.locator("details.row[open] .sides button.focus").first
        under = chip.evaluate("(c) => getComputedStyle(c, '::after').content")
        infer, train = (chip.get_attribute(name) for name in ("data-i", "data-r"))
        assert under == f'"{infer}\\a {train}"'
        chip.click()
        detail = page.inner_text("#token-detail")
        assert re.search(rf"probability \(engine\)\s+{infer}[.\d]* %", detail)
        assert page.locator("details.row").count() <= 14
        assert page.locator("details.row[open]").count() <= 3
