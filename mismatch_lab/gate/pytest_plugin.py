"""pytest: `assert_logprob_parity` and a fixture of that name; loaded by pytest where installed.

Nothing of mismatch-lab is imported before a test asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from mismatch_lab.gate.judge import GateResult

ACCEPT = "--parity-accept"


class LogprobParity(Protocol):
    """The fixture: as `assert_logprob_parity`, with a baseline beside the test's file."""

    def __call__(
        self, model: str, *options: str, rules: Path | None = None, baseline: bool = True
    ) -> GateResult: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mismatch-lab")
    group.addoption(
        ACCEPT,
        action="store_true",
        help="write the baselines of logprob_parity anew, and fail the tests that did",
    )


@pytest.fixture(scope="session")
def _logprob_parity_workers() -> Iterator[None]:
    """One server, from the first test on, that all fork their workers from: one import of torch."""
    from mismatch_lab.executors.forked import forked_workers

    with forked_workers():
        yield


@pytest.fixture
def logprob_parity(
    request: pytest.FixtureRequest, tmp_path: Path, _logprob_parity_workers: None
) -> LogprobParity:
    """Gate a model in a test; its baseline is `TESTFILE.parity/TESTNAME.json`, to be committed."""
    calls = 0

    def check(
        model: str, *options: str, rules: Path | None = None, baseline: bool = True
    ) -> GateResult:
        nonlocal calls
        calls += 1
        accept = bool(request.config.getoption(ACCEPT))
        return assert_logprob_parity(
            model,
            *options,
            rules=rules,
            baseline=_baseline_of(request, calls) if baseline else None,
            accept=accept and baseline,
            out=tmp_path / f"parity-{calls}",
            note=lambda name, value: request.node.user_properties.append((name, value)),
        )

    return check


def assert_logprob_parity(
    model: str,
    *options: str,
    engine: str | None = None,
    trainer: str | None = None,
    rules: Path | None = None,
    baseline: Path | None = None,
    accept: bool = False,
    out: Path | None = None,
    note: Callable[[str, str], None] | None = None,
) -> GateResult:
    """Diagnose a model and fail unless it passes the gate.

    Args:
        model: checkpoint folder or hub name.
        options: more of `mismatch-lab diagnose`, as typed: "--dtype", "float32".
        engine: the program that samples.
        trainer: the program that trains.
        rules: TOML file; the package's own by default.
        baseline: file of an earlier run to compare with.
        accept: write it anew, and fail, since nothing was compared.
        out: run folder; by default a new one in runs/.
        note: is told of the report's path, by name (for properties of a test).

    Returns:
        The result, where it passed.

    Raises:
        AssertionError: it failed or could not be measured; says what, and where the report is.
        InputError: wrong input.
    """
    from mismatch_lab.gate.baseline import baseline_of, write_baseline
    from mismatch_lab.gate.command import GateRequest, gate, not_acceptable, report_of

    asked = [model, *options]
    asked += [] if engine is None else ["--engine", engine]
    asked += [] if trainer is None else ["--trainer", trainer]
    request = GateRequest(run=tuple(asked), out=out, rules=rules, baseline=baseline, accept=accept)
    result, record = gate(request)
    report = report_of(record)
    if note is not None and report is not None:
        note("parity_report", str(report))
    where = f"\nreport: {report}" if report is not None else ""
    if accept and baseline is not None:
        said = not_acceptable(request, result)
        if not said:
            write_baseline(baseline, baseline_of(record))
            said = f"accepted: {baseline}"
        raise AssertionError(f"{said}; run the tests again without {ACCEPT}{where}")
    if result.outcome != "passed":
        lines = [f"{one.outcome:12} {one.name}: {one.message}" for one in result.results]
        raise AssertionError("\n".join([result.headline, *lines]) + where)
    return result


def _baseline_of(request: pytest.FixtureRequest, call: int) -> Path:
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    path: Path = request.path
    return path.with_suffix(".parity") / f"{name}{'' if call == 1 else f'-{call}'}.json"
