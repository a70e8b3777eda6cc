"""`list` and `explain`: the tables of the package, for people."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table

from mismatch_lab.attribution.causes import CAUSES, all_causes
from mismatch_lab.attribution.experiments import EXPERIMENTS
from mismatch_lab.cli.explain_cause import print_cause
from mismatch_lab.engines.base import ENGINE_ABOUT
from mismatch_lab.errors import InputError
from mismatch_lab.findings.edges import EDGE_ABOUT, EDGES
from mismatch_lab.ingest.formats import FORMATS
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.probes.suites import load_probe, probe_names
from mismatch_lab.remedies import REMEDIES, load_remedy

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
        "experiments": lambda: [
            (
                experiment.id,
                experiment.side,
                experiment.changes,
                ", ".join(sorted(experiment.cures)),
            )
            for experiment in EXPERIMENTS
        ],
        "faults": _fault_rows,
        "fixes": _fix_rows,
        "formats": lambda: [
            (one.name, one.about, one.switch, f"lacks {'; '.join(one.cannot_know)}")
            for one in FORMATS.values()
        ],
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
    """What a cause, fault, fix, experiment, probe, measure, edge or engine is; each of that name.

    Raises:
        InputError: none has this name; says which come near.
    """
    console = Console(highlight=False, markup=False)
    found = [explain for names, explain in _explainers() if name in names]
    if not found:
        raise InputError(f"Nothing is named {name!r}.", _hint(name))
    for number, explain in enumerate(found):
        if number:
            console.print()
        explain(console, name)


Explainer = Callable[[Console, str], None]


def _explainers() -> list[tuple[Collection[str], Explainer]]:
    """Names of one kind, and what prints one of them; everything that `list` shows is in it."""
    from mismatch_lab.cli.explain_engine import print_engine
    from mismatch_lab.faults import FAULTS

    return [
        (CAUSES, print_cause),
        (probe_names(), _explain_probe),
        (EDGE_MEASURES, _explain_measure),
        (EDGES, _explain_edge),
        (ENGINE_ABOUT, print_engine),
        (REMEDIES, _explain_fix),
        (FAULTS, _explain_fault),
        ({one.id for one in EXPERIMENTS}, _explain_experiment),
        (FORMATS, _explain_format),
    ]


def _explain_measure(console: Console, name: str) -> None:
    measure = EDGE_MEASURES[name]
    console.print(f"{name} ({measure.unit}, per {measure.per}): {measure.description}")


def _explain_edge(console: Console, name: str) -> None:
    console.print(f"{name} (captures {' and '.join(EDGES[name])}): {EDGE_ABOUT[name]}")


def _explain_fix(console: Console, name: str) -> None:
    fix = load_remedy(name)
    console.print(f"{name} (fix, `train --fix {name}`): {fix.about}\n{fix.formula}\n{fix.source}")
    if fix.removes:
        console.print(f"removes: {', '.join(fix.removes)}")
    if fix.softens:
        console.print(f"softens: {', '.join(fix.softens)}")


def _explain_fault(console: Console, name: str) -> None:
    _, side, about, causes = next(row for row in _fault_rows() if row[0] == name)
    console.print(f"{name} (planted in {side}): {about}; right answers: {causes}")


def _explain_experiment(console: Console, name: str) -> None:
    found = next(one for one in EXPERIMENTS if one.id == name)
    side = "trainer" if found.side == "train" else "engine"
    console.print(f"{name} (tried on the {side} itself): measured again with {found.changes}.")
    for text, causes in (
        ("takes the error away, if it is", found.clears),
        ("takes it away, where that is what causes it, if it is", found.may_clear),
    ):
        if causes:
            console.print(f"{text}: {', '.join(sorted(causes))}")
    if found.leaves:
        console.print(f"leaves it as large, if it is one of {len(found.leaves)} other causes")


def _explain_format(console: Console, name: str) -> None:
    one = FORMATS[name]
    lines = [
        f"{name} (format of a dump, `ingest {name} PATH --out DIR`): {one.about}",
        f"made by: {one.switch}",
        f"files: {one.files}",
        f"holds: {one.holds}",
        f"masks: {one.masks}",
        f"cannot know: {'; '.join(one.cannot_know)}",
    ]
    if one.usual:
        lines.append(f"samples, where nothing is changed: {one.usual}")
    if one.needs:
        lines.append(f"needs: {one.needs}")
    console.print("\n".join(lines))


def _hint(name: str) -> str:
    catalogued = {one for names, _ in _explainers() for one in names}
    wanted = name.lower().replace("_", "-")
    spelt = {one.replace("_", "-"): one for one in sorted(catalogued)}
    near = get_close_matches(wanted, spelt, n=4)
    near += [known for known in spelt if wanted in known and known not in near]
    if near:
        names = ", ".join(spelt[one] for one in near)
        return f"Did you mean {names}? All: mismatch-lab list causes, and the like."
    listed = "engines, probes, measures, causes, experiments, faults, fixes, formats"
    others = ", ".join([*probe_names(), *ENGINE_ABOUT, *EDGES])
    return f"`mismatch-lab list` shows {listed}; and there are {others}."


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
