"""The report's page: what the templates show is gathered, one name a part, and written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mismatch_lab.attribution.causes import CAUSES, CauseEntry, load_cause
from mismatch_lab.findings.drawn import WORDS, disproved, in_words, what_would_be_noticed
from mismatch_lab.findings.odd_tokens import SIDES
from mismatch_lab.findings.odd_tokens import WORDS as WORDS_OF_ODD
from mismatch_lab.findings.record import in_words as record_in_words
from mismatch_lab.measures.edge import EDGE_MEASURES
from mismatch_lab.report.edges import DRAWN, MEAN_ABS_DELTA, STATES, edge_views
from mismatch_lab.report.figure_parts import FigurePart, figure_parts
from mismatch_lab.report.gaps import gaps, not_compared
from mismatch_lab.report.run_files import RunFiles, read_run
from mismatch_lab.report.settings import engine_settings, trainer_settings
from mismatch_lab.report.single_file import render_page, write_whole
from mismatch_lab.report.text import DONE_TO, tied
from mismatch_lab.report.token_details import FIELDS, DetailMaker
from mismatch_lab.report.tokens import LEVELS_NATS, TokenShelf
from mismatch_lab.report.viewer import other_ids, row_views
from mismatch_lab.resources import reports_dir
from mismatch_lab.schema import Cause, Findings, Status

STATUS: dict[Status, tuple[str, str, str, str]] = {
    "match": ("Match", "✓", "good", "Both sides are the same policy."),
    "numerics": ("Numerics", "≈", "fair", "Different, as much as this precision explains: no bug."),
    "mismatch": ("Mismatch", "✕", "bad", "More than precision explains."),
    "underpowered": ("Underpowered", "?", "fair", "Too few tokens or sequences to say."),
    "error": ("Error", "!", "bad", "It could not be measured."),
}
"""Name, sign, tone, and what it means."""

RULED_OUT_SHOWN = 4
"""Causes ruled out that are not folded away."""

TILES = (
    (MEAN_ABS_DELTA, "mean |Δ|", "nats"),
    ("kl_infer_train_k3", "KL(infer ‖ train), k3", "nats/token"),
    ("ratio_outside_share", "ratios outside [0.8, 1.25]", "share of tokens"),
    ("ess", "effective sample fraction", "1 is on-policy"),
)

MEANINGS = {
    "kl_infer_train_exact": "KL(infer || train) of whole distributions at probe positions "
    "(nats/token)",
    "top1_agreement": "share of probe positions where both sides find the same token likeliest",
} | {
    name: measure.description + ("" if measure.unit == "1" else f" ({measure.unit})")
    for name, measure in EDGE_MEASURES.items()
}


def page_context(run: RunFiles) -> dict[str, Any]:
    """Everything the templates name."""
    findings, spec = run.findings, run.spec
    figures = figure_parts(run)
    edges = edge_views(findings, spec.probe if spec else None)
    return {
        "findings": findings,
        "verdict": findings.verdict,
        "tied": tied(findings.verdict.causes),
        "done_to": DONE_TO,
        "known": known(findings.verdict.causes),
        "ruled_out_shown": RULED_OUT_SHOWN,
        "status": STATUS[findings.verdict.status],
        "spec": spec,
        "manifests": run.manifests,
        "settings": engine_settings(spec, run.manifests) if spec else [],
        "of_trainer": trainer_settings(spec, run.manifests) if spec else [],
        "command": shlex.join(spec.provenance.command) if spec else "",
        "edges": edges,
        "edge": {edge.name: edge for edge in edges},
        "odd_words": WORDS_OF_ODD,
        "odd_sides": SIDES,
        "record_words": record_in_words(findings.record) if findings.record else [],
        "sampling": _sampling(findings),
        "drawn": any(edge.name in DRAWN and edge.state != "unmeasured" for edge in edges),
        "states": STATES,
        "tiles_edge": _tiles_edge(findings),
        "tiles": TILES,
        "meanings": MEANINGS,
        "token_figures": _those(figures, "tokens"),
        "module_figure": next(iter(_those(figures, "modules")), None),
        "routing_figure": next(iter(_those(figures, "routing")), None),
        "gaps": gaps(run),
        "not_compared": not_compared(run.findings.localisation),
        # `capture.train` lies within the stage `trainer`.
        "total_s": sum(t for name, t in findings.timings_s.items() if "." not in name),
        "levels": LEVELS_NATS,
        **_token_parts(run),
    }


def _sampling(findings: Findings) -> dict[str, Any] | None:
    """Whether tokens came from what is reported, and how far off they could be unnoticed."""
    found = findings.drawn
    if found is None:
        return None
    return {
        "found": found,
        "disproved": disproved(found),
        "noticed": what_would_be_noticed(found),
        "words": [(WORDS[s.name], in_words(s), s) for s in found.suppositions],
    }


def _those(figures: list[FigurePart], part: str) -> list[FigurePart]:
    return [figure for figure in figures if figure.part == part]


def _tiles_edge(findings: Findings) -> str | None:
    """The edge the headline numbers are of: what RL sees, else the first that was measured."""
    names = ("decode_train", "prefill_train", *findings.edges)
    return next((name for name in names if name in findings.edges), None)


def _token_parts(run: RunFiles) -> dict[str, Any]:
    parts: dict[str, Any] = {"worst": [], "views": [], "details": {}, "token_data": ""}
    parts["other_ids"] = other_ids(run)
    if run.pair is None or run.infer_id is None or run.train_id is None:
        return parts
    shelf = TokenShelf(run.captures[run.infer_id], run.captures[run.train_id], run.pair, run.text)
    parts["worst"] = shelf.worst()
    parts["views"] = row_views(shelf)
    maker = DetailMaker(run, shelf)
    parts["details"] = {str(flat): maker.detail(flat) for flat in sorted(shelf.shown)}
    parts["detail_fields"] = FIELDS
    packed = {key: detail.packed() for key, detail in parts["details"].items()}
    parts["token_data"] = script_json({"fields": FIELDS, "tokens": packed})
    return parts


def script_json(value: object) -> Markup:
    """JSON that may stand in a script element: `<`, `>` and `&` spelt out, all ASCII."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # nothing in it can end the element


def known(causes: list[Cause]) -> dict[str, CauseEntry]:
    """id -> what the catalogue says of it, where it says anything."""
    return {cause.id: load_cause(cause.id) for cause in causes if cause.id in CAUSES}


FILE_NAME = "report.html"


def write_report(run_dir: Path) -> Path:
    """Render `run_dir` into `run_dir/report.html`, whole or not at all.

    Raises:
        InputError: `run_dir` holds no findings that this version reads.
    """
    html = render(page_context(read_run(run_dir)), reports_dir())
    return write_whole(run_dir / FILE_NAME, html)


def render(context: dict[str, Any], templates: Path) -> str:
    """The page as text."""
    return render_page("report.html.j2", templates, context)
