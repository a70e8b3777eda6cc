"""All findings of a run, from its captures on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.probes import cut_rows
from mismatch_lab.captures.store import MANIFEST, load_capture
from mismatch_lab.checkpoints.config import read_config
from mismatch_lab.engines.base import BLACK_BOXES, RECORDED
from mismatch_lab.engines.plan import capture_plan, floor_dtype
from mismatch_lab.findings.drawn import measure_drawn
from mismatch_lab.findings.edges import measure_edges
from mismatch_lab.findings.localise import left_open, localise
from mismatch_lab.findings.next_command import next_command
from mismatch_lab.findings.noise_floor import measure_floor
from mismatch_lab.findings.odd_tokens import odd_tokens
from mismatch_lab.findings.over_runs import (
    Repeat,
    in_words,
    over_runs,
    repeat_record,
    widened_edges,
    widened_floor,
    without_reference,
)
from mismatch_lab.findings.routing import TO_REFERENCE, measure_routing
from mismatch_lab.findings.three_way import three_way
from mismatch_lab.findings.verdict import Decision, Evidence, decide
from mismatch_lab.findings.versions import measure_versions, record
from mismatch_lab.findings.weights import differing_tensors
from mismatch_lab.probes.thresholds import not_reached, thresholds
from mismatch_lab.schema import (
    DrawnFindings,
    EstimateRecord,
    Findings,
    OverRuns,
    Program,
    ReferenceCheck,
    RunSpec,
    ThreeWay,
    Verdict,
)

VERSIONS_NEED_DEPTH = (
    "Which tensors are old is told from what modules do: --weights-before needs --depth standard."
)

NO_PACKS = (
    "Not in the record: how the trainer packed sequences (packed_rows). Whether they see each "
    "other there (packing-leak) is not known."
)


def load_captures(run_dir: Path) -> dict[str, Capture]:
    """Every whole capture of a run, by id."""
    folder = run_dir / "captures"
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    # What a killed run left half-written has a name that begins with a dot.
    return {path.name: load_capture(path)[0] for path in found if path.name[0] != "."}


def build_findings(
    run: RunSpec,
    captures: dict[str, Capture],
    timings_s: dict[str, float],
    reference: ReferenceCheck | None = None,
    repeats: Sequence[Repeat] = (),
) -> Findings:
    """Measure every edge and decide.

    Args:
        run: what was asked.
        captures: by id.
        timings_s: seconds by stage, for the record.
        reference: whether the reference holds, where that was asked: without it, an engine that
            differs from it is not yet the side that is wrong.
        repeats: what further runs measured.
    """
    limits = run.probe.limits
    dtype = floor_dtype(run)
    edges = measure_edges(captures)
    floor = measure_floor(captures, edges, dtype)
    of_sides = [one for edge in TO_REFERENCE if (one := measure_routing(captures, edge))]
    routing = measure_routing(captures) or next(iter(of_sides), None)
    ratio, of_record = limits.module_floor_ratio, bool(run.modules_from)
    localisation = localise(captures, run.depth, dtype, ratio, of_record)
    if localisation is not None and reference is not None and reference.is_open:
        localisation = left_open(localisation)
    rows = captures["decode"].rows.n_rows
    weights = _weights(captures)
    versions = measure_versions(run, captures, localisation)
    odd = odd_tokens(captures)
    evidence = Evidence(edges, floor, localisation, routing, rows, tuple(weights), odd=tuple(odd))
    decision = decide(evidence, limits)
    over = None
    if repeats:
        if reference is not None and reference.outcome == "contradicts":
            repeats = [without_reference(repeat) for repeat in repeats]
        odd += [one for repeat in repeats for one in repeat.odd]
        evidence = replace(evidence, odd=tuple(odd))
        evidence, over = _over_runs(run, evidence, repeats, decision)
        decision = _telling(decide(evidence, limits), in_words(over, evidence.edge))
    if reference is not None:
        decision = replace(decision, reasons=[*decision.reasons, reference.why])
    three = _three_way(run, evidence)
    if three is not None:
        decision = _telling(decision, [three.why])
    drawn = measure_drawn(captures, run.probe.sampling)
    return Findings(
        run=run.id,
        edges=edges,
        noise_floor=floor,
        routing=routing,
        routing_of_sides=of_sides,
        localisation=localisation,
        calibration=_calibration(captures["decode"].rows, drawn),
        drawn=drawn,
        over_runs=over,
        odd_tokens=odd,
        weights=weights,
        versions=record(versions) if versions is not None else None,
        three_way=three,
        reference=reference,
        timings_s=timings_s,
        notes=_notes(run, captures, versions is None),
        verdict=_verdict(decision, next_command(run, decision, three)),
    )


def _three_way(run: RunSpec, evidence: Evidence) -> ThreeWay | None:
    """Who stands alone of two engines and the trainer; None where there is one engine."""
    if run.second is None or evidence.floor is None:
        return None
    names: dict[Program, str] = {
        "infer": run.infer.engine,
        "second": run.second.engine,
        "train": f"trainer {run.train.engine}",
    }
    limits = run.probe.limits
    return three_way(evidence.edges, evidence.floor, names, limits, evidence.n_rows)


def _over_runs(
    run: RunSpec, evidence: Evidence, repeats: Sequence[Repeat], first: Decision
) -> tuple[Evidence, OverRuns]:
    """The evidence with the wider of the intervals over rows and over runs."""
    edges, floor = evidence.edges, evidence.floor
    seed = run.probe.sampling.seed
    own = repeat_record(1, seed, first.status, first.headline, edges, floor)
    over = over_runs([own, *(repeat.record for repeat in repeats)], edges, floor)
    edges, floor = widened_edges(edges, over), widened_floor(floor, over)
    return replace(evidence, edges=edges, floor=floor), over


def _telling(decision: Decision, more: list[str]) -> Decision:
    """The decision with more to say, after its first reason."""
    reasons = decision.reasons
    return replace(decision, reasons=[*reasons[:1], *more, *reasons[1:]])


def _notes(run: RunSpec, captures: dict[str, Capture], no_versions: bool) -> list[str]:
    """What was asked for and is not there, and why."""
    asked = run.infer.weights_before is not None and run.infer.engine != RECORDED
    notes = [VERSIONS_NEED_DEPTH] if asked and no_versions else []
    for name in ("prefill", "train", "ref"):
        why = captures[name].not_recorded.get("routing") if name in captures else None
        if why is not None:
            notes.append(f"Choices of experts were not compared ({name}): {why}")
    if run.infer.engine in BLACK_BOXES and "prefill" in captures:
        unseen = {**captures["decode"].not_recorded, **captures["prefill"].not_recorded}
        unseen.pop("routing", None)
        of = "in the record" if run.infer.engine == RECORDED else "seen of the server"
        notes += [f"Not {of}: {what} ({why})." for what, why in unseen.items()]
    if run.train.engine == RECORDED:
        notes += _unseen_of_record(captures)
    plan, rows = capture_plan(run), captures["decode"].rows
    known = thresholds(read_config(run.infer.model), run.infer.args)
    notes += not_reached(known, int(np.diff(rows.row_offsets).max(initial=0)))
    cut = cut_rows(rows, plan) if run.depth != "quick" else ()
    if cut:
        notes.append(
            f"Of {len(cut)} rows whose modules were compared only the first {plan.tap_tokens} "
            "tokens were: shorter answers (--max-tokens) or prompts are recorded whole."
        )
    return notes


def _unseen_of_record(captures: dict[str, Capture]) -> list[str]:
    """What would show more, and of which side it was not recorded."""
    notes = [] if captures["train"].packs is not None else [NO_PACKS]
    sides = {"the engine": captures["prefill"], "the trainer": captures["train"]}
    if captures["ref"].router_topk is not None:
        unseen = [name for name, side in sides.items() if side.router_topk is None]
        if unseen:
            notes.append(f"Not in the record: which experts {' and '.join(unseen)} chose.")
    unseen = [name for name, side in sides.items() if not side.hidden]
    if len(unseen) == 1:
        notes.append(f"Not in the record: hidden states of {unseen[0]}. Its modules were not seen.")
    return notes


def _verdict(decision: Decision, command: str) -> Verdict:
    return Verdict(
        status=decision.status,
        headline=decision.headline,
        reasons=decision.reasons,
        next_command=command,
        causes=decision.causes,
    )


def _calibration(rows: Rows, drawn: DrawnFindings | None) -> EstimateRecord | None:
    """z of the sampled tokens; no interval, since its own deviation is 1."""
    if drawn is None:
        return None
    dropped = int(rows.sampled.sum()) - drawn.n
    return EstimateRecord(value=drawn.z, n=drawn.n, n_dropped=dropped, ci95=(math.nan, math.nan))


def _weights(captures: dict[str, Capture]) -> list[str]:
    infer, train = captures.get("prefill"), captures.get("train")
    if infer is None or train is None:
        return []
    return differing_tensors(infer.weights, train.weights)
