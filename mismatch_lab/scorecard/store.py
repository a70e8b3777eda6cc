"""The card's folder: one file for each case, written whole or not at all, so that it resumes."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from mismatch_lab.errors import InputError
from mismatch_lab.schema import write_json
from mismatch_lab.scorecard.records import Case, CaseResult

CASES, CACHE, WORK, RUNS = "cases", "cache", "work", "runs"
CARD_FILE, PAGE_FILE = "scorecard.json", "scorecard.html"
OURS = {CASES, CACHE, WORK, RUNS, CARD_FILE, PAGE_FILE}


def prepare_card_folder(out: Path) -> None:
    """The folder, with what an earlier card left in it.

    Raises:
        InputError: its parent does not exist, it is a file, or it holds other files.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file.", "Choose another --out.")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} does not exist.", "Make it, or choose another --out.")
    strangers = sorted(p.name for p in out.iterdir() if p.name not in OURS) if out.is_dir() else []
    if [name for name in strangers if not name.endswith(".tmp")]:
        raise InputError(
            f"{out} holds {strangers[0]!r}: not a scorecard folder.", "Choose another --out."
        )
    for folder in (CASES, CACHE, WORK):
        (out / folder).mkdir(parents=True, exist_ok=True)


def result_file(out: Path, case: Case) -> Path:
    """Where a case's result is."""
    return out / CASES / f"{case.id}.json"


def save_result(out: Path, result: CaseResult) -> None:
    """Write a result whole or not at all."""
    write_json(result_file(out, result.case), result)


def load_result(path: Path) -> CaseResult:
    """A stored result.

    Raises:
        InputError: not a result that this version reads.
    """
    try:
        return CaseResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a result that this version reads.",
            "Remove it, or choose another --out.",
        ) from error


def stored_result(out: Path, case: Case) -> CaseResult | None:
    """A case's result, if it has one that running it again would not better: what failed for want
    of memory or time is tried again.
    """
    path = result_file(out, case)
    result = load_result(path) if path.is_file() else None
    if result is None or (result.judgement is None and not result.not_applicable):
        return None
    return result


def load_results(out: Path) -> list[CaseResult]:
    """All stored results, ordered by id.

    Raises:
        InputError: there is no card, or a result cannot be read.
    """
    if not (out / CASES).is_dir():
        raise InputError(f"{out} is not a scorecard folder: it has no {CASES}/.")
    return [load_result(path) for path in sorted((out / CASES).glob("*.json"))]
