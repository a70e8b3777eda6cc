"""From a mismatch to its causes, in one loop: who is wrong, what its captures show by themselves,
what simulation explains, what experiments on the side confirm; and in the end all are ranked.

README.md beside this file tells it on one page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mismatch_lab.attribution.candidates import NOTHING
from mismatch_lab.attribution.context import Context, Measured
from mismatch_lab.attribution.experiment import experiment
from mismatch_lab.attribution.explain import simulate
from mismatch_lab.attribution.rank import Ranked, SuspectResult, rank
from mismatch_lab.attribution.read_off import Known, beside, read_off
from mismatch_lab.attribution.sampled_otherwise import asked_for
from mismatch_lab.attribution.self_disagreement import self_disagreements
from mismatch_lab.attribution.simulate import Scorer, Simulator, open_session
from mismatch_lab.attribution.suspects import Suspect, find_suspects, noise_of
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.attribution.trials import Rerun, Trials
from mismatch_lab.findings.drawn import disproved
from mismatch_lab.schema import Cause, ExperimentRecord, RuledOut, RunSpec
from mismatch_lab.schema.events import OnEvent


@dataclass(frozen=True)
class Attribution:
    """What `attribute` found."""

    causes: list[Cause]
    ruled_out: list[RuledOut]
    experiments: list[ExperimentRecord]
    notes: list[str]


def attribute(
    run: RunSpec,
    out: Path,
    measured: Measured,
    rerun: Rerun,
    on_event: OnEvent,
    budget_s: float = THRESHOLDS.budget_s,
    cost_s: Mapping[str, float] | None = None,
) -> Attribution:
    """Name the causes of a mismatch.

    Args:
        run: what was asked.
        out: the run's folder.
        measured: what was measured.
        rerun: asks a side that is changed on trial.
        on_event: is told what happens.
        budget_s: seconds for experiments.
        cost_s: side -> seconds that one trial on it takes.
    """
    trials = Trials(rerun, on_event, time.monotonic() + budget_s, cost_s)
    with open_session(run.ref, out) as session:
        simulator = _simulator(run, measured, session, budget_s)
        context = Context.of(run, measured, simulator, trials, (out / "captures").resolve())
        found = examine(context)
        trials.record_simulations(simulator)
    notes = [*found.notes, *(_moved(name, nats) for name, nats in simulator.moved.items())]
    if simulator.no_room:
        notes.append(f"Not tried, for lack of memory: {', '.join(sorted(simulator.no_room))}.")
    if trials.skipped:
        notes.append(f"The budget did not pay for: {'; '.join(trials.skipped)}.")
    return Attribution(found.causes, found.ruled_out, trials.records, notes)


def _moved(name: str, nats: float) -> str:
    return (
        f"The reference itself is in doubt: {name}, with its defect switched off, moves it by "
        f"{nats:.2g} nats. What that simulation would explain is not named."
    )


def _simulator(run: RunSpec, measured: Measured, session: Scorer, budget_s: float) -> Simulator:
    probe = measured.captures["ref"].probe_logp
    return Simulator(
        session,
        run.probe.sampling.temperature,
        0 if probe is None else probe.shape[1],
        budget_s,
    )


def examine(context: Context) -> Ranked:
    """The loop: suspects, and for each what is read off, simulated and tried; then the ranking."""
    known, results = Known(), list[SuspectResult]()
    own = self_disagreements(context.measured.captures, _noise(context))
    suspects = _suspects(context)
    for suspect in suspects:
        context.trials.say(f"looking for what explains the {suspect.name}")
        seen = read_off(context, suspect, known, own)
        found, simulated, now_known = NOTHING, None, seen.known
        if not seen.settled:
            simulated = simulate(context, seen.suspect, seen.known.defects, seen.own_capture)
            found, simulated = experiment(context, seen, simulated, own)
            now_known = Known(simulated.whole, simulated.done)
        if suspect.name == "infer":
            known = now_known
        results.append(SuspectResult(seen.found, found, simulated))
    judged = {suspect.name for suspect in suspects}
    rest = beside(context, [cause for one in results for cause in one.candidates], own, judged)
    return rank(results, rest, asked_for(context.run.probe.sampling))


def _noise(context: Context) -> float:
    return noise_of(context.measured.floor, context.run.probe.limits)


def _suspects(context: Context) -> list[Suspect]:
    """Whose log-probs are wrong, the engine's re-scoring before its sampling."""
    found, limits = context.measured, context.run.probe.limits
    suspects = find_suspects(found.captures, found.edges, found.floor, found.localisation, limits)
    if found.drawn is not None and disproved(found.drawn):
        # Sampling otherwise is no error of log-probs: nobody else need be wrong.
        return [one for one in suspects if one.error_nats > one.noise_nats]
    return suspects
