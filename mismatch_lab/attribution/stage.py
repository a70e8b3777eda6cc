"""The attribution stage of a run: when it is due, and what it adds to the findings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from mismatch_lab.attribution.by_hand import to_try
from mismatch_lab.attribution.context import Measured
from mismatch_lab.attribution.driver import attribute
from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.odd_causes import odd_causes, with_odd
from mismatch_lab.attribution.record_causes import copied_cause
from mismatch_lab.attribution.sampled_otherwise import causes_of, inherited, own_settings
from mismatch_lab.attribution.suspects import SUSPECTS, noise_of, suspect_of
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.attribution.token_patterns import token_patterns
from mismatch_lab.attribution.trials import SCORED, Rerun
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture, load_manifest
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.settings import hookable
from mismatch_lab.errors import EngineError
from mismatch_lab.executors.cache import task_key
from mismatch_lab.executors.kept import EXPERIMENTS, KEY_DIGITS, is_there
from mismatch_lab.executors.local import run_task
from mismatch_lab.findings.drawn import disproved, in_words
from mismatch_lab.findings.odd_tokens import only_finite
from mismatch_lab.findings.verdict import beside_averages
from mismatch_lab.findings.weights import tensors_unlike
from mismatch_lab.schema import DrawnFindings, Findings, NoiseFloor, RunSpec
from mismatch_lab.schema.events import OnEvent

AfterTask = Callable[[str, Path], None]
TASKS = {"infer": "engine", "train": "trainer"}
"""Side -> the worker task whose place a repeated scoring of it takes; see `diagnose`."""


def with_causes(
    run: RunSpec,
    out: Path,
    captures: Mapping[str, Capture],
    findings: Findings,
    on_event: OnEvent,
    budget_s: float | None = None,
    after_task: AfterTask | None = None,
) -> Findings:
    """The findings with causes, where there is a mismatch to explain and a reference to try on."""
    floor = findings.noise_floor
    if floor is None or findings.verdict.status == "error":
        return findings
    verdict = findings.verdict
    decode = load_manifest(out / "captures" / "decode")
    settings = own_settings(decode)
    of_record = copied_cause(findings.record) if findings.record is not None else []
    if verdict.status != "mismatch":
        seen = (
            (of_record[0].why if of_record else "")
            or _constants(captures, floor, run)
            or _drawn_otherwise(findings.drawn)
            or inherited(settings)
        )
        told = [findings.three_way.why] if findings.three_way is not None else []
        verdict = beside_averages(verdict, seen, told)
    if verdict.status != "mismatch":
        return findings
    found = attribute(
        run,
        out,
        _measured(run, out, only_finite(captures), findings, floor),
        _rerun(run, out, on_event, after_task),
        on_event,
        THRESHOLDS.budget_s if budget_s is None else budget_s,
        _costs(findings.timings_s),
    )
    of_server = causes_of(settings, {cause.id for cause in found.causes})
    odd = odd_causes(findings.odd_tokens, captures, findings.edges)
    causes = with_odd([*of_record, *found.causes, *of_server], odd)
    verdict = verdict.model_copy(
        update={
            "causes": sorted(causes, key=lambda cause: -cause.confidence),
            "ruled_out": found.ruled_out,
            "experiments": found.experiments,
            "by_hand": to_try(
                run,
                captures,
                noise_of(floor, run.probe.limits),
                causes,
                decode,
            ),
        }
    )
    return findings.model_copy(
        update={"verdict": verdict, "notes": [*findings.notes, *found.notes]}
    )


def _measured(
    run: RunSpec,
    out: Path,
    captures: Mapping[str, Capture],
    findings: Findings,
    floor: NoiseFloor,
) -> Measured:
    sides = (("infer", "prefill"), ("train", "train"))
    weights = {
        suspect: tensors_unlike(captures[name].weights, captures["ref"].weights)
        for suspect, name in sides
    }
    manifest = load_manifest(out / "captures" / "decode")
    return Measured(
        captures,
        findings.edges,
        floor,
        findings.localisation,
        weights,
        manifest,
        findings.reference,
        findings.drawn,
        tuple(findings.odd_tokens),
    )


def _constants(captures: Mapping[str, Capture], floor: NoiseFloor, run: RunSpec) -> str:
    """Log-probs that are constants, in words; empty where there are none."""
    noise = noise_of(floor, run.probe.limits)
    rows = captures["decode"].rows
    for suspect in SUSPECTS:
        one = suspect_of(suspect, captures, noise)
        patterns = token_patterns(one.observed, one.expected, rows, noise)
        if patterns:
            tokens = sum(int(pattern.tokens.sum()) for pattern in patterns)
            return f"{tokens} log-probs of the {suspect} are constants, whatever the model says."
    return ""


def _drawn_otherwise(drawn: DrawnFindings | None) -> str:
    """Tokens that do not come from what is reported, in words; empty where nothing disproves it."""
    if drawn is None or not disproved(drawn):
        return ""
    best = max(drawn.suppositions, key=lambda s: s.gain_nats)
    seen = f"z = {drawn.z:.1f} (limit {drawn.z_limit:.1f})"
    if best.gain_nats >= drawn.gain_limit_nats:
        seen += f", and {best.gain_nats:.0f} nats likelier with {in_words(best)}"
        seen += f" (limit {drawn.gain_limit_nats:.0f})"
    if drawn.n_impossible:
        seen += f", {drawn.n_impossible} of probability 0"
    return f"Sampled tokens are not drawn from the log-probs that are reported: {seen}."


def _rerun(run: RunSpec, out: Path, on_event: OnEvent, after_task: AfterTask | None) -> Rerun:
    def rerun(trial: Trial) -> dict[str, Capture]:
        stages = _stages(run, trial, out / "captures")
        ids = [job.id for stage in stages for job in stage.jobs]
        key = task_key(WorkerTask(captures_dir=str((out / "captures").resolve()), stages=stages))
        folder = out / EXPERIMENTS / (f"trial-{key[:KEY_DIGITS]}" if key is not None else "trial")
        if key is None or not is_there(folder, ids):
            shutil.rmtree(folder, ignore_errors=True)  # of a trial that was killed, or another one
            for stage in stages:  # one process each: an engine's memory is free when it has ended
                task = WorkerTask(captures_dir=str(folder.resolve()), stages=[stage])
                run_task(task, f"trial-{trial.spec.side}", out / "logs", on_event)
            if after_task is not None:
                after_task(TASKS.get(trial.spec.side, EXPERIMENTS), folder)
        _check_same_server(out / "captures", [folder / name for name in ids])
        return {name: load_capture(folder / name)[0] for name in ids}

    return rerun


def _check_same_server(captures: Path, made: list[Path]) -> None:
    """Raise EngineError where a trial asked another server than the run did, or a restarted one."""
    asked = load_manifest(captures / "decode").options.get("identity")
    for folder in made:
        now = load_manifest(folder)
        if now.side == "infer" and asked is not None and now.options.get("identity") != asked:
            raise EngineError("The server is not the one that the run asked: it was restarted.")


def _stages(run: RunSpec, trial: Trial, captures: Path) -> list[Stage]:
    """What a trial starts. Where the engine was started twice, its sampling as configured is held
    against its eager code again, and what scores is that code.
    """
    sampling, recorded = trial.sampling, str(captures.resolve())
    of_engine = trial.spec.side == "infer"
    eager = hookable(trial.spec) if of_engine and run.infer_eager is not None else trial.spec
    if sampling is not None:
        jobs: list[Job] = [GenerateJob(id="decode", prompts=run.prompts, sampling=sampling)]
        again = ScoreJob(id="prefill", source="decode", temperature=sampling.temperature)
        if eager == trial.spec:
            return [Stage(spec=trial.spec, jobs=[*jobs, again])]
        return [Stage(spec=trial.spec, jobs=jobs), Stage(spec=eager, jobs=[again])]
    choices = trial.routing_from
    scored = ScoreJob(
        id=SCORED,
        source=f"{recorded}/decode",
        temperature=run.probe.sampling.temperature,
        train_mode=trial.train_mode,
        routing_from=None if choices is None else f"{recorded}/{choices}",
    )
    return [Stage(spec=eager, jobs=[scored])]


def _costs(timings_s: Mapping[str, float]) -> dict[str, float]:
    """side -> seconds of its first start and captures, where they were measured."""
    return {side: timings_s[task] for side, task in TASKS.items() if task in timings_s}
