"""A card of four cases on the fake engine: `python small_card.py OUT PROBE [WORKERS]`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.executors import forked
from mismatch_lab.report import page
from mismatch_lab.schema import OptionValue
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.command import run_cases
from mismatch_lab.scorecard.records import Case, Truth
from mismatch_lab.scorecard.run_case import Bench
from mismatch_lab.scorecard.setup import Setup
from mismatch_lab.scorecard.store import prepare_card_folder


def halve(captures: Path) -> None:
    """Log-probs of the sampled tokens, lost by half on their way."""
    capture, manifest = load_capture(captures / "decode")
    shutil.rmtree(captures / "decode")
    save_capture(captures / "decode", replace(capture, logp=capture.logp / 2), manifest)


def case(name: str, setup: Setup, cause: str | None = None, side: str = "train") -> Planned:
    truths = (
        Truth(fault=name, severity="plain", causes=(cause,), families=("semantics",),
              sides=(side,), location=None),
    ) if cause else ()  # fmt: skip
    made = Case(
        id=name, kind="single" if cause else "control", model="fake", dtype="float32",
        engine="fake", truths=truths, control=None if cause else name,
    )  # fmt: skip
    return Planned(made, lambda _model: setup)


def defect(name: str) -> dict[str, OptionValue]:
    return {"defect": name}


PLANNED = [
    case("healthy", Setup()),
    case("scaled", Setup(trainer_args=defect("lm_head_scale")), "logit-scale"),
    case("halved", Setup(capture_edits=(("engine", halve),)), "logprob-precision", "sync"),
    case("refused", Setup(trainer_args=defect("no_such_defect")), "logit-scale"),
]


def main(out: Path, probe: str, workers: int) -> None:
    page.write_report = lambda folder: folder  # seconds each, and tried elsewhere
    if workers > 1:  # which also share a server
        forked.ENGINES, forked.PRELOAD = ("fake",), ()
    prepare_card_folder(out)
    bench = Bench(out, find_model=str, trainer="fake", probe=probe, code="abc")
    run_cases(PLANNED, bench, overwrite=False, workers=workers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(*sys.argv[3:] or [1]))
