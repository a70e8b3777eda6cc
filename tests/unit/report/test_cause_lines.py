"""What the terminal says of named causes."""

from __future__ import annotations

import io

from made_findings import mismatch_verdict, tied_verdict
from rich.console import Console

from mismatch_lab.cli.cause_lines import print_causes
from mismatch_lab.report.text import tied
from mismatch_lab.schema import Verdict


def printed(verdict: Verdict) -> list[str]:
    """The lines, with single spaces."""
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_causes(console, verdict)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_one_cause_reads_as_a_chain() -> None:
    assert printed(mismatch_verdict()) == [
        "cause: attention-sinks-dropped (train at model.layers.0.self_attn, confidence 0.97)",
        "why The trainer alone leaves the floor, from the first token on; with its sinks turned "
        "off, the reference says what the trainer says.",
        "seen trainer against fp32 reference, mean |Δ|: 0.490; expected at the floor, 0.0211",
        # Six were ruled out: four by name.
        "ruled out sliding-window, attention-softcap, rope-scaling, rope-theta and 2 more",
        "confirmed sinks put back: 0.490 -> 0.0210",
        "do use an attention kernel that applies sinks",
        "try it mismatch-lab train --fix attention-sinks",
        "more mismatch-lab explain attention-sinks-dropped",
    ]


def test_a_tie_is_said_with_what_would_decide() -> None:
    lines = printed(tied_verdict())
    assert [line for line in lines if line.startswith("cause:")] == [
        "cause: raw-logprobs-temperature (infer, confidence 0.50)",
        "cause: logit-scale (infer, confidence 0.50)",
    ]
    assert lines.count("confirmed not yet") == 2
    assert lines[-1] == (
        "undecided: raw-logprobs-temperature and logit-scale explain what was seen equally well. "
        "To decide: sample at temperature 1: a temperature disappears, a scale stays"
    )


def test_two_faults_at_once_are_no_tie() -> None:
    causes = [cause.model_copy(update={"decides": ""}) for cause in tied_verdict().causes]
    assert tied(causes) == []
    first = tied_verdict().causes[0]
    assert tied([first, causes[1].model_copy(update={"confidence": 0.4})]) == []
    assert [cause.id for cause in tied([first, causes[1]])] == [first.id, causes[1].id]


def test_more_causes_than_fit_are_counted() -> None:
    verdict = mismatch_verdict()
    many = verdict.model_copy(update={"causes": verdict.causes * 5})
    assert printed(many)[-1] == "and 2 more; the report has them"


def test_an_unknown_cause_is_not_sent_to_explain_and_controls_are_spelt_out() -> None:
    verdict = mismatch_verdict()
    cause = verdict.causes[0].model_copy(update={"id": "new\x1b[31m[b]", "why": "a\u202eb"})
    lines = printed(verdict.model_copy(update={"causes": [cause]}))
    assert lines[0].startswith("cause: new⟨U+001B⟩[31m[b] ")
    assert lines[1] == "why a⟨U+202E⟩b"
    assert not any("explain" in line for line in lines)
