"""What `mismatch-lab scorecard` does."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

import mismatch_lab
from mismatch_lab.engines.provenance import gather
from mismatch_lab.errors import InputError
from mismatch_lab.executors import forked
from mismatch_lab.faults import FAULTS
from mismatch_lab.faults.held_out import HELD_OUT
from mismatch_lab.faults.held_out_second import HELD_OUT_SECOND
from mismatch_lab.run.request import DTYPES
from mismatch_lab.schema import write_json
from mismatch_lab.schema.events import Event, OnEvent, StageBegan
from mismatch_lab.scorecard import console as view
from mismatch_lab.scorecard.card import build_card
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.models import checkpoint
from mismatch_lab.scorecard.page import write_page
from mismatch_lab.scorecard.pool import run_side_by_side
from mismatch_lab.scorecard.records import CaseResult, Scorecard
from mismatch_lab.scorecard.run_case import Bench, run_case
from mismatch_lab.scorecard.select import FIRST, SECOND, Selection, part_of, select
from mismatch_lab.scorecard.store import (
    CARD_FILE,
    load_results,
    prepare_card_folder,
    save_result,
    stored_result,
)

DEFAULT_OUT = Path("runs") / "scorecard"
CI_PROMPTS, CI_MAX_TOKENS = 16, 48
"""The subset ci: enough tokens for an answer, few enough for CI."""


@dataclass(frozen=True)
class ScorecardRequest:
    """The options of `scorecard`, as typed."""

    selection: Selection = field(default_factory=Selection)
    part: str = "1/1"
    out: Path | None = None
    engine: str = "vllm"
    checkpoints: Path | None = None
    keep_runs: bool = False
    overwrite: bool = False
    list_only: bool = False
    render_only: bool = False
    workers: int = 1
    """Cases at a time."""
    repeats: int = 1
    """Runs of each case; a stored result keeps those it was made with."""
    command: tuple[str, ...] = ()


def run_scorecard(asked: ScorecardRequest) -> bool:
    """Run what is missing of the card, then print and write all of it; False if an aim is missed.

    Raises:
        InputError: an option is wrong, or the folder is not a scorecard's.
    """
    if asked.selection.dtype not in (None, *DTYPES[:2]):
        raise InputError(f"The scorecard has no dtype {asked.selection.dtype!r}.")
    part_of([], asked.part)  # before anything slow
    checkpoints = asked.checkpoints or default_checkpoints()
    faults = list(FAULTS.values())
    held_out = {
        FIRST: list(HELD_OUT.values()),
        SECOND: list(HELD_OUT_SECOND.values()),
    }
    planned = select(asked.selection, faults, asked.engine, checkpoints, held_out)
    part = part_of(planned, asked.part)
    if asked.list_only:
        view.print_cases(Console(), [entry.case for entry in part])
        return True
    out = asked.out or DEFAULT_OUT
    if asked.out is None:
        out.parent.mkdir(exist_ok=True)
    if not asked.render_only:
        prepare_card_folder(out)
        run_cases(part, _bench(asked, out, checkpoints), asked.overwrite, asked.workers)
    card = _finish(asked, planned, out)
    return not any(goal.met is False for goal in card.goals) and not card.not_run


def default_checkpoints() -> Path:
    """Where trained models are kept between cards: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "mismatch-lab" / "scorecard-models"


def code_digest() -> str:
    """A digest of this package's sources and causes: results of other ones are told apart by it."""
    root = Path(mismatch_lab.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.toml")]):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _bench(asked: ScorecardRequest, out: Path, checkpoints: Path) -> Bench:
    short = asked.selection.subset == ("ci",)
    checkpoints.mkdir(parents=True, exist_ok=True)
    return Bench(
        out=out,
        find_model=partial(_checkpoint, cache=checkpoints),
        prompts=CI_PROMPTS if short else None,
        max_tokens=CI_MAX_TOKENS if short else None,
        keep_runs=asked.keep_runs,
        repeats=asked.repeats,
        code=code_digest(),
    )


def _checkpoint(name: str, cache: Path) -> str:
    """One process trains a missing model; others that need it wait."""
    with (cache / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return checkpoint(name, cache)


def run_cases(planned: list[Planned], bench: Bench, overwrite: bool, workers: int = 1) -> None:
    """Run the cases that have no answer yet; each result is on disk before the next is awaited."""
    with view.progress(Console(stderr=True), len(planned)) as board:
        waiting = []
        for entry in planned:
            stored = None if overwrite else stored_result(bench.out, entry.case)
            if stored is None:
                waiting.append(entry)
            else:
                board.done(stored, stored=True)

        def run(entry: Planned, on_event: OnEvent) -> CaseResult:
            on_event(StageBegan("beginning"))
            return run_case(entry.case, entry.setup, bench, on_event)

        def told(entry: Planned, event: Event) -> None:
            board.on_event(entry.case, event)

        def done(result: CaseResult) -> None:
            save_result(bench.out, result)
            board.done(result)

        with forked.forked_workers(at_once=bool(waiting) and bench.trainer in forked.ENGINES):
            if workers > 1:
                run_side_by_side(waiting, workers, run, told, done)
            else:
                for entry in waiting:
                    done(run(entry, partial(told, entry)))


def _finish(asked: ScorecardRequest, planned: list[Planned], out: Path) -> Scorecard:
    """The card is of every part, as far as it has results."""
    ids = {entry.case.id for entry in planned}
    results = [result for result in load_results(out) if result.case.id in ids]
    subset = ", ".join(asked.selection.subset)
    command = list(asked.command)
    card = build_card(results, len(planned), asked.engine, subset, gather(command))
    write_json(out / CARD_FILE, card)
    write_page(card, out)
    view.print_card(Console(), card, out)
    return card
