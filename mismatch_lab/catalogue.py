"""`list` and `explain`: the tables of the package, for people."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table

from mismatch_lab.attribution.causes import CAUSES, all_causes
from mismatch_lab.attribution.knobs import KNOBS
from mismatch_lab.engines.base import ENGINE_ABOUT
from mismatch_lab.errors import InputError
from mismatch_lab.explain_cause import print_cause
from mismatch_lab.findings.edges import EDGE_ABOUT, EDGES
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.remedies import REMEDIES, load_remedy
from mismatch_lab.suites import load_probe, probe_names

PIPED_WIDTH = 200
"""Columns where nobody looks: one line per name, so that grep finds whole ones."""


def print_list(what: str) -> None:
    """Names with a line each."""
    tables: dict[str, Callable[[], list[tuple[str, ...]]]] = {
        "engines": lambda: [*ENGINE_ABOUT.items()],
        "probes": lambda: [(name, load_probe(name).title) for name in probe_names()],
        "measures": lambda: [
            (name, f"{m.description} [{m.unit}]") for name, m in EDGE_MEASURES.items()
        ],
        "causes": lambda: [(cause.id, cause.family, cause.title) for cause in all_causes()],
        "knobs": lambda: [
            (knob.id, knob.side, knob.does, ", ".join(sorted(knob.cures))) for knob in KNOBS
        ],
        "faults": _fault_rows,
        "fixes": _fix_rows,
    }
    rows = tables[what]()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    for _ in rows[0][1:]:
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    _list_console().print(table)


def print_explanation(name: str) -> None:
    """What a cause, fault, probe, measure, edge or engine is.

    Raises:
        InputError: none has this name; says which come near.
    """
    console = Console(highlight=False, markup=False)
    if name in CAUSES:
        print_cause(console, name)
    elif name in probe_names():
        _explain_probe(console, name)
    elif name in EDGE_MEASURES:
        measure = EDGE_MEASURES[name]
        console.print(f"{name} ({measure.unit}, per {measure.per}): {measure.description}")
    elif name in EDGES:
        console.print(f"{name} (captures {' and '.join(EDGES[name])}): {EDGE_ABOUT[name]}")
    elif name in ENGINE_ABOUT:
        console.print(f"{name}: {ENGINE_ABOUT[name]}")
    elif name in REMEDIES:
        fix = load_remedy(name)
        console.print(f"{name}: {fix.about}\n{fix.formula}\n{fix.source}")
    else:
        _explain_fault(console, name)


def _explain_fault(console: Console, name: str) -> None:
    faults = {row[0]: row for row in _fault_rows()}
    if name not in faults:
        others = [*probe_names(), *EDGE_MEASURES, *EDGES, *ENGINE_ABOUT]
        raise InputError(f"Nothing is named {name!r}.", _hint(name, others, [*CAUSES, *faults]))
    _, side, about, causes = faults[name]
    console.print(f"{name} (planted in {side}): {about}; right answers: {causes}")


def _hint(name: str, others: list[str], catalogued: list[str]) -> str:
    wanted = name.lower().replace("_", "-")
    near = get_close_matches(wanted, catalogued, n=4) + get_close_matches(name, others, n=2)
    near += [known for known in catalogued if wanted in known and known not in near]
    if near:
        return f"Did you mean {', '.join(near)}? All: mismatch-lab list causes, and the like."
    return (
        f"Known: {', '.join(others)}; see also `mismatch-lab list causes` and "
        "`mismatch-lab list faults`."
    )


def _fault_rows() -> list[tuple[str, ...]]:
    """Name, side, what it does, the causes that are a right answer."""
    from mismatch_lab.faults import FAULTS

    return [(f.id, f.side, f.about, ", ".join(f.causes)) for f in FAULTS.values()]


def _fix_rows() -> list[tuple[str, ...]]:
    """Name, what it does, the causes that it removes or makes harmless."""
    fixes = [load_remedy(name) for name in REMEDIES]
    return [(fix.id, fix.about, ", ".join(fix.causes)) for fix in fixes]


def _list_console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal and console.width < PIPED_WIDTH:
        console.width = PIPED_WIDTH
    return console


def _explain_probe(console: Console, name: str) -> None:
    probe = load_probe(name)
    sampling, capture = probe.sampling, probe.capture
    console.print(f"{probe.name}: {probe.title}\n\n{probe.why.strip()}\n")
    console.print(
        f"prompts: {probe.prompts.count} of {probe.prompts.set}"
        + (f", each after {probe.prompts.shots} others" if probe.prompts.shots else "")
    )
    console.print(
        f"sampling: temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, "
        f"at most {sampling.max_tokens} tokens"
    )
    console.print(
        f"records: {capture.probe_positions} positions in full; depth {probe.depth}"
        + (", router choices" if capture.routing else "")
    )
    console.print(f"limits: {probe.limits_reason.strip()}")
