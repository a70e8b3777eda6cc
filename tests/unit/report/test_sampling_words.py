"""Which sampling would have been noticed, on the terminal and in the report."""

from __future__ import annotations

import io
from collections.abc import Callable

from built import Built
from made_findings import drawn
from rich.console import Console

from mismatch_lab.cli.console import summary
from mismatch_lab.findings.drawn import what_would_be_noticed
from mismatch_lab.schema import Findings

NOTICED = (
    "Sampling that differs from what is reported would have been noticed in 1264 tokens (95%): a "
    "temperature up to 0.87 or from 1.16 on, top-p up to 0.98, a token that is never drawn and was "
    "to be expected 24 times; not a presence penalty."
)
Build = Callable[[str], Built]


def printed(findings: Findings) -> str:
    """With single spaces."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    summary(console, findings, None)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_a_match_says_what_would_have_been_noticed(built: Build) -> None:
    assert what_would_be_noticed(drawn()) == NOTICED
    run = built("match")
    assert NOTICED in printed(run.findings)
    assert run.page.root.one("p", id="noticed").text == NOTICED


def test_each_supposition_is_a_row_with_its_limits(built: Build) -> None:
    table = built("match").page.root.one("table", id="suppositions")

    def cells(name: str) -> list[str]:
        row = table.one("tr", data_supposition=name)
        return [cell.text for cell in row.children if not isinstance(cell, str)]

    assert cells("temperature") == [
        "a temperature", "a temperature of 1.01 (1.01 to 1.03)", "0.100", "0.870", "1.16",
    ]  # fmt: skip
    assert cells("top_p") == ["top-p", "top-p of 0.83 (0.83 to 0.85)", "−40.0", "0.980", "–"]
    assert cells("never_drawn")[1:] == ["0 tokens that cannot be drawn", "0", "–", "23.8"]


def test_tokens_drawn_otherwise_take_the_words_away(built: Build) -> None:
    found = built("match").findings
    assert NOTICED not in printed(found.model_copy(update={"drawn": drawn(top_p_nats=90.0)}))
    assert "Sampling that differs" not in printed(found.model_copy(update={"drawn": None}))
    assert not built("mismatch").page.root.all("p", id="noticed"), "nothing was recorded there"
