"""What two captures alone support: one edge, no floor, and the causes that it shows by itself."""

from __future__ import annotations

import shlex
from dataclasses import replace

from mismatch_lab.attribution.candidates import Side, build_cause
from mismatch_lab.attribution.odd_causes import odd_causes, with_odd
from mismatch_lab.attribution.one_sided import one_sided_causes
from mismatch_lab.attribution.record_causes import (
    ABOUT_NO_POLICY,
    COPIED,
    copied_cause,
    one_number_cause,
)
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.attribution.two_captures import (
    NOT_SEEN,
    TokenIds,
    causes_of_two,
    differing_ids,
    looked_at,
    token_id_causes,
)
from mismatch_lab.captures.capture import Capture, chosen_rows
from mismatch_lab.findings.edges import measure_pair
from mismatch_lab.findings.odd_tokens import odd_tokens, only_finite
from mismatch_lab.findings.record import Examined, examine, with_version
from mismatch_lab.findings.routing import measure_routing
from mismatch_lab.findings.verdict import Decision, Evidence, decide
from mismatch_lab.schema import (
    Cause,
    Findings,
    Limits,
    Manifest,
    Measures,
    Observation,
    RoutingFindings,
    Verdict,
)

EDGE = "decode_train"
NO_REFERENCE = "Two captures alone: no reference, so precision cannot be told from a bug."
SAME = "Two programs agree so only where they run the same kernels in the same batches."
SAMPLERS, TRAINERS = ("vllm", "sglang", "hf", "fake"), ("fsdp", "hf", "fake")
"""Engines that a diagnosis starts by their name alone."""


def compare_findings(
    infer: Capture,
    train: Capture,
    names: tuple[str, str],
    limits: Limits,
    of: tuple[Manifest, Manifest] | None = None,
) -> Findings:
    """Measure one edge and name what it shows.

    Args:
        infer: what the engine says.
        train: what the trainer says of the same tokens.
        names: of the two, for people.
        limits: beyond which it is a mismatch.
        of: their manifests, where they have any: which program and model to diagnose next.

    Raises:
        AlignmentError: the captures hold other tokens, and are not of the same conversations.
    """
    differing = differing_ids(infer, train)
    if differing is not None:
        return _of_other_ids(differing, infer, train, names)
    if of is not None:
        infer, train = with_version(infer, of[0], "infer"), with_version(train, of[1], "train")
    examined = examine(infer, train, names)
    decision = no_measurement(infer, train, examined)
    if decision is not None:
        edges = {EDGE: measure_pair(infer, train, names)}
        found = _findings(names, edges, None, decision, _both_here(of))
        return found.model_copy(update={"record": examined.record})
    if not examined.is_whole:
        infer, train = (chosen_rows(one, examined.rows) for one in (infer, train))
    found = _of_the_same_ids(infer, train, names, limits, of, copied_cause(examined.record))
    found = found.model_copy(update={"record": examined.record})
    seen, rows = len(looked_at(infer.rows)), infer.rows.n_rows
    if seen == rows:
        return found
    part = f"Causes were looked for in {seen} of {rows} rows, spread evenly."
    return found.model_copy(update={"notes": [*found.notes, part]})


def no_measurement(infer: Capture, train: Capture, examined: Examined) -> Decision | None:
    """The verdict on a record in which one side's numbers stand for both, or nothing of one side
    was recorded; None where the sides can be compared.
    """
    if not examined.record.compared_rows:
        return Decision("error", COPIED, [COPIED, SAME], copied_cause(examined.record))
    causes = one_number_cause(infer, train)
    if not causes:
        return None
    return Decision("error", f"No verdict: {causes[0].why}", [causes[0].why], causes)


def _of_the_same_ids(
    infer: Capture,
    train: Capture,
    names: tuple[str, str],
    limits: Limits,
    of: tuple[Manifest, Manifest] | None,
    of_record: list[Cause],
) -> Findings:
    """Findings of two captures of the same tokens; `of_record` is what was found before."""
    edges = {EDGE: measure_pair(infer, train, names)}
    odd = odd_tokens({"decode": infer, "train": train})
    decision = decide(Evidence(edges, None, None, None, infer.rows.n_rows, odd=tuple(odd)), limits)
    if decision.status != "error":
        finite = only_finite({"decode": infer, "train": train})
        causes = [*of_record, *causes_of_two(finite["decode"], finite["train"])]
        causes = with_odd(causes, odd_causes(odd, {"decode": infer, "train": train}, {}))
        if decision.status == "mismatch" and not causes:
            causes = _possible(finite["decode"], finite["train"], of)
        decision = _with_causes(decision, causes)
    routing = measure_routing({"prefill": infer, "train": train})
    found = _findings(names, edges, routing, decision, _next_command(of, names))
    return found.model_copy(update={"odd_tokens": odd})


def _possible(infer: Capture, train: Capture, of: tuple[Manifest, Manifest] | None) -> list[Cause]:
    """What may be behind a difference that nothing names: distributions that are not the same by
    the manifests' own account, or a support that is cut.
    """
    sampling = of[0].sampling if of is not None else None
    if of is None or sampling is None or sampling.temperature in (0, 1):
        return one_sided_causes(infer, train, sampling)
    spaces = of[0].logprob_space, of[1].logprob_space
    if spaces[0] == spaces[1]:
        return one_sided_causes(infer, train, sampling)
    at = f"temperature {sampling.temperature:g}"
    why = (
        f"The engine's log-probs are {spaces[0]} and the trainer's {spaces[1]} of {at}, by their "
        "own account. Whether that is all of the difference, the checkpoint says."
    )
    evidence = Observation(
        observation="temperature of one side's log-probs, where the other's are before any",
        value=sampling.temperature,
        expected="1, or both sides before or after it",
    )
    side: Side = "infer" if spaces[0] == "raw" else "train"
    return [build_cause("raw-logprobs-temperature", side, CONFIDENCE.own_account, why, [evidence])]


def _next_command(of: tuple[Manifest, Manifest] | None, names: tuple[str, str]) -> str:
    """A diagnosis of the same model by the same programs; of arrays, which have no model, of what
    they hold against the checkpoint that they are of.
    """
    if of is not None and of[0].model:
        return _both_here(of)
    files = [word for name in dict.fromkeys(names) for word in ("--captures", name)]
    return shlex.join(["mismatch-lab", "diagnose", "CHECKPOINT", *files])


def _both_here(of: tuple[Manifest, Manifest] | None) -> str:
    """Both sides run anew, by the programs that the captures name."""
    if of is None or not of[0].model:
        return "mismatch-lab diagnose CHECKPOINT --depth standard"
    infer, train = of
    words = ["mismatch-lab", "diagnose", infer.model]
    if infer.engine in SAMPLERS:
        words += ["--engine", infer.engine]
    if train.engine in TRAINERS:
        words += ["--trainer", train.engine]
    return shlex.join([*words, "--dtype", infer.dtype, "--depth", "standard"])


def _with_causes(decision: Decision, causes: list[Cause]) -> Decision:
    """A match has no cause, but what is wrong with a record is none: no average need show it."""
    of_record = [cause for cause in causes if cause.id in ABOUT_NO_POLICY]
    if decision.status == "mismatch":
        return replace(decision, causes=causes)
    if not of_record:
        return decision
    text = of_record[0].why
    reasons = [*decision.reasons[:1], text]
    return Decision("mismatch", f"Mismatch: {text}", reasons, of_record)


def _of_other_ids(
    found: TokenIds, infer: Capture, train: Capture, names: tuple[str, str]
) -> Findings:
    """Findings where ids differ; log-probs are compared in the rows that are the same."""
    edges: dict[str, Measures] = {}
    if len(found.same):
        same = [chosen_rows(capture, found.same) for capture in (infer, train)]
        edges[EDGE] = measure_pair(same[0], same[1], names)
    causes = token_id_causes(found, infer, train)
    others = {d.row for d in (*found.prompts, *found.answers)}
    headline = (
        f"Mismatch: the sides hold different token ids in {len(others)} of {found.n_rows} rows."
    )
    left = (
        f"Log-probs are compared in the {len(found.same)} rows whose ids agree."
        if edges
        else "No row has the same ids on both sides: log-probs cannot be compared."
    )
    decision = Decision("mismatch", headline, [headline, *(c.why for c in causes), left], causes)
    return _findings(names, edges, None, decision, f"mismatch-lab explain {causes[0].id}")


def _findings(
    names: tuple[str, str],
    edges: dict[str, Measures],
    routing: RoutingFindings | None,
    decision: Decision,
    next_command: str,
) -> Findings:
    return Findings(
        run=f"{names[0]} vs {names[1]}",
        edges=edges,
        noise_floor=None,
        routing=routing,
        localisation=None,
        notes=[NO_REFERENCE, NOT_SEEN],
        verdict=Verdict(
            status=decision.status,
            headline=decision.headline,
            reasons=decision.reasons,
            next_command=next_command,
            causes=decision.causes,
        ),
    )
