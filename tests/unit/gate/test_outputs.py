"""What CI systems read: nothing of a message becomes markup or another line."""

from __future__ import annotations

from xml.etree import ElementTree

from mismatch_lab.gate.judge import GateResult, RuleResult
from mismatch_lab.gate.outputs import junit, markdown, workflow_commands

HOSTILE = "a|b <img src=x> `c` *d* ]]> \x00\x1b \uffff 100%\n::error::injected\r\u202e"


def result(*outcomes: str) -> GateResult:
    rules = [
        RuleResult(name=f"{outcome}, rule", outcome=outcome, message=HOSTILE, reason=HOSTILE, n=3)  # type: ignore[arg-type]
        for outcome in outcomes
    ]
    return GateResult(run=HOSTILE, outcome="failed", headline=HOSTILE, results=rules, causes=[])


def test_junit_has_a_case_for_each_rule_and_counts_what_is_no_pass() -> None:
    written = junit(result("passed", "failed", "underpowered", "error", "skipped"))
    (suite,) = ElementTree.fromstring(written)
    counted = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"}
    children = [case[0].tag for case in suite]
    assert children == ["system-out", "failure", "error", "error", "skipped"]
    assert "<img src=x>" in suite[1][0].attrib["message"]  # as text: it came through a parser
    assert suite[1].find("properties/property[@name='n']") is not None


def test_markdown_shows_text_as_text() -> None:
    lines = markdown(result("failed"), None).splitlines()
    (row,) = [line for line in lines if line.startswith("| failed")]
    assert r"a\|b \<img src=x\> \`c\` \*d\*" in row
    assert not any(line.startswith("::") for line in lines)
    assert "\u202e" not in row


def test_workflow_commands_are_one_line_each() -> None:
    commands = workflow_commands(result("passed", "failed", "underpowered", "skipped"))
    assert [c.split(" ", 1)[0] for c in commands] == ["::error", "::warning"]
    assert all(len(command.splitlines()) == 1 for command in commands)
    assert "title=parity%3A failed%2C rule::" in commands[0]
    assert "100%25%0A::error::injected" in commands[0]
