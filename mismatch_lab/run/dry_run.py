"""What a run would do: its captures, and what would be tried to explain a mismatch."""

from __future__ import annotations

from mismatch_lab.attribution.experiments import choices
from mismatch_lab.attribution.experiments.base import ASKED, DEFAULT, PATCHED
from mismatch_lab.attribution.hypotheses import Features, Hypothesis
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.attribution.suspects import SUSPECTS, side_of
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.checkpoints.config import read_config
from mismatch_lab.checkpoints.tensors import tensor_names
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.engines.jobs import Job
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.engines.plugin import check_plugin
from mismatch_lab.findings.tensor_changes import changed_tensors
from mismatch_lab.schema import RunSpec, Strict

SIMULATED = (
    "simulated: one scoring pass of the reference for each value, about a second if it is small"
)
STARTED_AGAIN = "on the side itself, started again: as long as its first start"
OF_WEIGHTS = ("stale-tensor", "stale-weights", "untied-head", "router-bias", "weight-quantisation")
AGAIN = "tensors that are not the checkpoint's, loaded again"
UNLIKE = "where fingerprints show it"
LIKELY = {ASKED: "it was set for this run", PATCHED: "the plugin may", DEFAULT: "as it comes"}
"""Why an experiment is considered; in this order."""

LATER = (
    "What the run shows decides which of these are tried, in which layers and in which pairs; "
    "constants, token patterns and a side that contradicts itself are read off its captures."
)


class PlannedCapture(Strict):
    """One pass of one side."""

    id: str
    side: str
    engine: str
    dtype: str
    does: str


class PlannedTrial(Strict):
    """One supposition about one suspect."""

    cause: str
    supposed: str
    values: int
    """Values tried at first."""
    refined: bool
    """Whether more are tried between the best of them."""


class PlannedSuspect(Strict):
    """What is tried where one suspect disagrees with the reference."""

    suspect: str
    trials: list[PlannedTrial]


class PlannedExperiment(Strict):
    """One thing that can be set otherwise on the real side, to separate or confirm causes."""

    side: str
    does: str
    takes_away: list[str]
    why: str


class DryRun(Strict):
    """The plan of a run."""

    run: str
    prompts: int
    captures: list[PlannedCapture]
    suspects: list[PlannedSuspect]
    experiments: list[PlannedExperiment]
    budget_s: float
    cost_of_trial: str = SIMULATED
    cost_of_experiment: str = STARTED_AGAIN
    note: str = LATER
    repeats: int = 1
    repeats_note: str = ""


def plan_run(run: RunSpec, budget_s: float | None = None) -> DryRun:
    """The plan of a run; nothing is started and nothing is written.

    Raises:
        InputError: a plugin or a checkpoint that the run needs is not there.
    """
    for side in run.programs:
        if side.plugin is not None:
            check_plugin(side.plugin)
    return DryRun(
        run=run.id,
        prompts=len(run.prompts),
        captures=_captures(run),
        suspects=[
            PlannedSuspect(
                suspect=features.suspect, trials=[_trial(h) for h in hypotheses_for(features)]
            )
            for features in _features(run)
        ],
        experiments=_experiments(run),
        budget_s=THRESHOLDS.budget_s if budget_s is None else budget_s,
        repeats=run.repeats,
        repeats_note=_repeats_note(run.repeats),
    )


def _repeats_note(repeats: int) -> str:
    if repeats == 1:
        return ""
    return (
        f"{repeats} runs, one after another: these captures again with engines started anew and "
        f"other sampling seeds, without modules; about {repeats} times their time and disk, the "
        "memory of one. What explains a mismatch is looked for once, in the first."
    )


def _captures(run: RunSpec) -> list[PlannedCapture]:
    return [
        PlannedCapture(
            id=job.id,
            side=stage.spec.side,
            engine=stage.spec.engine,
            dtype=stage.spec.dtype,
            does=_does(job),
        )
        for _, task in plan_tasks(run, "captures")
        for stage in task.stages
        for job in stage.jobs
    ]


def _does(job: Job) -> str:
    if job.kind == "generate":
        return f"samples at most {job.sampling.max_tokens} tokens for each prompt"
    parts = [f"scores {job.source}"]
    if job.first_rows is not None:
        parts.append(f"its first {job.first_rows} rows")
    if job.micro_batch is not None:
        parts.append(f"micro-batches of {job.micro_batch}")
    if job.train_mode:
        parts.append("in training mode")
    if job.replay_from is not None:
        parts.append(f"its modules fed the inputs of {job.replay_from}")
    if job.alter:
        parts.append(f"altered: {', '.join(sorted({a.name for a in job.alter}))}")
    recorded = [("distributions", job.probes), ("routing", job.routing), ("modules", job.taps)]
    names = [name for name, asked in recorded if asked]
    return ", ".join(parts) + (f"; records {', '.join(names)}" if names else "")


def _features(run: RunSpec) -> list[Features]:
    """What is known of every suspect before the run."""
    config, tensors = read_config(run.infer.model), tensor_names(run.infer.model)
    before = run.infer.weights_before
    changes = {} if before is None else changed_tensors(before, run.infer.model)
    return [
        Features(
            suspect,
            config,
            run.probe.sampling,
            weights_before=before,
            changed=tuple(changes),
            low_rank=tuple(name for name, c in changes.items() if c.rank is not None),
            dtype=side_of(run, suspect).dtype,
            packed=bool(run.train.args.get("packing")),
            tensors=tensors,
        )
        for suspect in SUSPECTS
    ]


def _trial(hypothesis: Hypothesis) -> PlannedTrial:
    search = hypothesis.search
    return PlannedTrial(
        cause=hypothesis.cause,
        supposed=hypothesis.label,
        values=1 if search is None else len(search.grid),
        refined=search is not None and search.refine != "no",
    )


def _experiments(run: RunSpec) -> list[PlannedExperiment]:
    """Every experiment that can be made, the likeliest first; tensors loaded again beside them."""
    found = {c.experiment.id: c for suspect in SUSPECTS for c in choices(run, suspect)}
    ordered = sorted(found.values(), key=lambda c: (c.prepared.likely, c.prepared.slower))
    return [
        *(
            PlannedExperiment(
                side=c.experiment.side,
                does=c.experiment.changes,
                takes_away=sorted(c.experiment.cures),
                why=LIKELY[c.prepared.likely],
            )
            for c in ordered
        ),
        *(
            PlannedExperiment(side=side, does=AGAIN, takes_away=[*OF_WEIGHTS], why=UNLIKE)
            for side in ("train", "infer")
            if side == "train" or run.infer.engine not in BLACK_BOXES
        ),
    ]
