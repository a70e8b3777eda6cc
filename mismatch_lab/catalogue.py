"""`list` and `explain`: the tables of the package, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mismatch_lab.engines.base import ENGINE_ABOUT
from mismatch_lab.errors import InputError
from mismatch_lab.findings.edges import EDGE_ABOUT, EDGES
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.suites import load_probe, probe_names


def print_list(what: str) -> None:
    """Names with a line each."""
    tables = {
        "engines": lambda: dict(ENGINE_ABOUT),
        "probes": lambda: {name: load_probe(name).title for name in probe_names()},
        "measures": lambda: {n: f"{m.description} [{m.unit}]" for n, m in EDGE_MEASURES.items()},
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, about in tables[what]().items():
        table.add_row(name, about)
    Console(highlight=False, markup=False).print(table)


def print_explanation(name: str) -> None:
    """What a probe, measure, edge or engine is.

    Raises:
        InputError: none has this name.
    """
    console = Console(highlight=False, markup=False)
    if name in probe_names():
        _explain_probe(console, name)
    elif name in EDGE_MEASURES:
        measure = EDGE_MEASURES[name]
        console.print(f"{name} ({measure.unit}, per {measure.per}): {measure.description}")
    elif name in EDGES:
        console.print(f"{name} (captures {' and '.join(EDGES[name])}): {EDGE_ABOUT[name]}")
    elif name in ENGINE_ABOUT:
        console.print(f"{name}: {ENGINE_ABOUT[name]}")
    else:
        known = [*probe_names(), *EDGE_MEASURES, *EDGES, *ENGINE_ABOUT]
        raise InputError(f"Nothing is named {name!r}.", f"Known: {', '.join(known)}.")


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
