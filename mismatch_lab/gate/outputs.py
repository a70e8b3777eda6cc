"""The gate's answer for people and for CI systems: terminal, Markdown, JUnit XML, annotations."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mismatch_lab.errors import InputError
from mismatch_lab.gate.judge import GateResult, RuleResult
from mismatch_lab.report.text import visible
from mismatch_lab.schema import write_whole

STYLE = {
    "passed": "green",
    "failed": "bold red",
    "underpowered": "yellow",
    "error": "bold yellow",
    "skipped": "dim",
}
HEAD_STYLE = {"passed": "bold green", "failed": "bold red", "not measured": "bold yellow"}

NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def print_result(console: Console, result: GateResult, report: Path | None) -> None:
    """The answer in its first line, then every rule."""
    console.print(Text(visible(result.headline), HEAD_STYLE[result.outcome]), soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in result.results:
        table.add_row(
            Text(one.outcome, STYLE[one.outcome]),
            Text(visible(one.name), "bold"),
            Text(visible(one.message)),
        )
    console.print(table)
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True, markup=False)


def markdown(result: GateResult, report: Path | None) -> str:
    """For a step's summary page."""
    lines = [f"### mismatch-lab gate: {_cell(result.headline)}", ""]
    lines += [f"Run {_cell(result.run)}" + (f", report `{report.name}`" if report else ""), ""]
    lines += ["| | rule | what was found | why this limit |", "|---|---|---|---|"]
    lines += [
        f"| {one.outcome} | {_cell(one.name)} | {_cell(one.message)} | {_cell(one.reason)} |"
        for one in result.results
    ]
    return "\n".join(lines) + "\n"


def junit(result: GateResult) -> str:
    """One case a rule; `underpowered` and `error` are errors, never passes."""
    results = result.results
    suite = ElementTree.Element(
        "testsuite",
        name="mismatch-lab gate",
        tests=str(len(results)),
        failures=str(sum(one.outcome == "failed" for one in results)),
        errors=str(sum(one.outcome in ("error", "underpowered") for one in results)),
        skipped=str(sum(one.outcome == "skipped" for one in results)),
    )
    for one in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(f"gate.{result.run}"), name=_xml(one.name)
        )
        _add_outcome(case, one)
        properties = ElementTree.SubElement(case, "properties")
        for name, value in _numbers(one).items():
            ElementTree.SubElement(properties, "property", name=name, value=value)
    suites = ElementTree.Element("testsuites", name=_xml(result.headline))
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def workflow_commands(result: GateResult) -> list[str]:
    """Workflow commands of GitHub: one line each, whatever a message holds."""
    found = []
    for one in result.results:
        if one.outcome in ("passed", "skipped"):
            continue
        kind = "error" if one.outcome in ("failed", "error") else "warning"
        title = _command(f"parity: {one.name}").replace(":", "%3A").replace(",", "%2C")
        found.append(f"::{kind} title={title}::{_command(f'{one.outcome}: {one.message}')}")
    return found


def write_text(path: Path, text: str, append: bool = False) -> None:
    """Whole or not at all; a summary that others write to as well is added to.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if append:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text)
            return
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def _add_outcome(case: ElementTree.Element, one: RuleResult) -> None:
    tag = {"failed": "failure", "skipped": "skipped", "passed": ""}.get(one.outcome, "error")
    message = _xml(visible(one.message))
    if not tag:
        ElementTree.SubElement(case, "system-out").text = message
        return
    element = ElementTree.SubElement(case, tag, message=message)
    if tag != "skipped":
        element.set("type", one.outcome)
        element.text = _xml(visible(f"{one.message}\nWhy this limit: {one.reason}"))


def _numbers(one: RuleResult) -> dict[str, str]:
    named = {
        "value": one.value,
        "ci95_low": one.ci95[0],
        "ci95_high": one.ci95[1],
        "limit": one.limit,
        "n_needed": one.n_needed,
    }
    found = {name: f"{value:.6g}" for name, value in named.items() if not math.isnan(value)}
    return found | ({"n": str(one.n)} if one.n else {})


def _xml(text: str) -> str:
    return NO_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _cell(text: str) -> str:
    """Plain text in a table of Markdown: nothing of it is markup."""
    plain = " ".join(visible(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~@])", r"\\\1", plain)


def _command(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
