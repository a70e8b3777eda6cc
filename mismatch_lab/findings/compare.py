"""What two captures alone support: one edge, no floor, and the causes that it shows by itself."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.attribution.odd_causes import odd_causes
from mismatch_lab.attribution.token_ids import TokenIds, differing_ids, token_id_causes
from mismatch_lab.attribution.two_captures import NOT_SEEN, causes_of_two, looked_at
from mismatch_lab.attribution.verdict import Decision, Evidence, decide
from mismatch_lab.captures.capture import Capture, chosen_rows
from mismatch_lab.findings.edges import measure_pair
from mismatch_lab.findings.odd_tokens import odd_tokens, only_finite
from mismatch_lab.findings.routing import measure_routing
from mismatch_lab.schema import Cause, Findings, Limits, Measures, RoutingFindings, Verdict

EDGE = "decode_train"
NO_REFERENCE = "Two captures alone: no reference, so precision cannot be told from a bug."
DEEPER = "mismatch-lab diagnose --depth standard"
CONSTANTS = ("sentinel-values", "terminal-token")


def compare_findings(
    infer: Capture, train: Capture, names: tuple[str, str], limits: Limits
) -> Findings:
    """Measure one edge and name what it shows.

    Raises:
        AlignmentError: the captures hold other tokens, and are not of the same conversations.
    """
    differing = differing_ids(infer, train)
    if differing is not None:
        return _of_other_ids(differing, infer, train, names)
    edges = {EDGE: measure_pair(infer, train, names)}
    odd = odd_tokens({"decode": infer, "train": train})
    decision = decide(Evidence(edges, None, None, None, infer.rows.n_rows, odd=tuple(odd)), limits)
    if decision.status != "error":
        finite = only_finite({"decode": infer, "train": train})
        causes = odd_causes(odd, {"decode": infer, "train": train}, {})
        causes += causes_of_two(finite["decode"], finite["train"])
        decision = _with_causes(decision, causes)
    routing = measure_routing({"prefill": infer, "train": train})
    found = _findings(names, edges, routing, decision, DEEPER)
    found = found.model_copy(update={"odd_tokens": odd})
    seen, rows = len(looked_at(infer.rows)), infer.rows.n_rows
    if seen == rows:
        return found
    part = f"Causes were looked for in {seen} of {rows} rows, spread evenly."
    return found.model_copy(update={"notes": [*found.notes, part]})


def _with_causes(decision: Decision, causes: list[Cause]) -> Decision:
    """A match has no cause, but constants are none: no average need show them."""
    constants = [cause for cause in causes if cause.id in CONSTANTS]
    if decision.status == "mismatch":
        return replace(decision, causes=causes)
    if not constants:
        return decision
    text = constants[0].why
    reasons = [*decision.reasons[:1], text]
    return Decision("mismatch", f"Mismatch: {text}", reasons, constants)


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
