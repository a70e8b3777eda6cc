"""The plan as tables, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.planner.activations import ABOUT
from mismatch_lab.trainer.planner.device import Phase
from mismatch_lab.trainer.planner.plan import Machine, MemoryPlan, make_plan


def show_plan(config: TrainConfig, machine: Machine, limit_gib: float | None) -> None:
    """Print what a run needs, and whether a device of `limit_gib` has it."""
    plan, console = make_plan(config, machine), Console(highlight=False)
    console.print(
        f"{config.model}: {plan.model.parameters / 1e9:.3f} billion parameters, "
        f"{machine.ranks} ranks, micro-batches of {plan.micro_batch_tokens} tokens; "
        "planned, not measured.",
        soft_wrap=True,
    )
    console.print(_terms("trainer, " + plan.peak.name, plan.peak))
    console.print(_phases(plan))
    console.print(_terms("engine", plan.engine))
    if plan.experts:
        console.print(_experts(plan))
    for line in summary(plan, limit_gib):
        console.print(line, soft_wrap=True)


def summary(plan: MemoryPlan, limit_gib: float | None) -> list[str]:
    """The lines that recipes quote."""
    where = "on a device that both share" if plan.shared else "each on devices of its own"
    lines = [
        f"trainer {plan.peak.total_gib:.1f} GiB, engine {plan.engine.total_gib:.1f} GiB, {where}; "
        f"host {plan.host_gib:.0f} GiB"
    ]
    if limit_gib is not None:
        fits = plan.device_gib <= limit_gib
        verdict = "fits" if fits else "does not fit"
        lines.append(f"{verdict} {limit_gib:g} GiB: {plan.device_gib:.1f} GiB are needed")
    return lines


def _terms(title: str, phase: Phase) -> Table:
    table = _table(title)
    for term in phase.terms:
        if term.gib > 0:
            table.add_row(term.what, f"{term.gib:.3f}")
    table.add_row("all", f"{phase.total_gib:.3f}", style="bold")
    return table


def _phases(plan: MemoryPlan) -> Table:
    table = _table("trainer, phase by phase")
    for phase in plan.phases:
        table.add_row(phase.name, f"{phase.total_gib:.3f}")
    return table


def _experts(plan: MemoryPlan) -> Table:
    title = f"experts, every way to run {plan.micro_batch_tokens} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for column in ("largest tensor GiB", f"kept, {plan.model.layers} layers GiB"):
        table.add_column(column, justify="right")
    for one in plan.experts:
        about = " (this run)" if one.used else ABOUT.get(one.way, "")
        style = "bold" if one.used else None
        table.add_row(one.way + about, f"{one.largest_gib:.2f}", f"{one.kept_gib:.2f}", style=style)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("per device")
    table.add_column("GiB", justify="right")
    return table
