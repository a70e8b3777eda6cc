"""The lab asks once, keeps what it was told, and stops when its budget is used up."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import answered, side

from mismatch_lab.attribution.lab import Lab, OutOfTimeError, PackedAs, open_session
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import EngineError, NotApplicableError
from mismatch_lab.schema import Alteration, CapturePlan

SINKS, WINDOW = Alteration(name="drop_sinks"), Alteration(name="sliding_window", value=0)
ANSWER = answered([-1.0])


class Scorer:
    """Answers all but what it refuses."""

    def __init__(self, refused: type[Exception] | None = None) -> None:
        self.refused = refused
        self.jobs: list[ScoreJob] = []

    def score(self, job: ScoreJob) -> Capture:
        self.jobs.append(job)
        if self.refused is not None:
            raise self.refused("refused")
        return ANSWER


def test_the_same_question_is_asked_once() -> None:
    scorer = Scorer()
    lab = Lab(scorer, 0.7, 100)
    for _ in range(2):
        assert lab.score((SINKS,)) is ANSWER
        assert lab.score((SINKS, WINDOW)) is ANSWER
        assert lab.score((SINKS,), first_rows=8) is ANSWER
    assert [(job.alter, job.first_rows) for job in scorer.jobs] == [
        ((SINKS,), None), ((SINKS, WINDOW), None), ((SINKS,), 8),
    ]  # fmt: skip
    assert len({job.id for job in scorer.jobs}) == 3
    assert all((job.source, job.temperature, job.probes) == ("decode", 0.7, True)
               for job in scorer.jobs)  # fmt: skip
    assert len(lab.spent) == 3


TF32 = Alteration(name="attention_products", value="tf32:cut")


@pytest.mark.parametrize(
    ("by_itself", "usable"),
    # The code around the products, none of them narrowed, against the reference's own: 0.44 nats
    # are another function, 1e-6 is the order of a sum.
    [(-1.44, False), (-1.000001, True)],
)
def test_code_that_moves_the_reference_by_itself_predicts_nothing(
    by_itself: float, usable: bool
) -> None:
    said = {None: [-1.0], "exact": [by_itself], "tf32:cut": [-1.5]}

    class Replacing(Scorer):
        def score(self, job: ScoreJob) -> Capture:
            self.jobs.append(job)
            value = job.alter[0].value if job.alter else None
            return answered(said[value])  # type: ignore[index]

    scorer = Replacing()
    lab = Lab(scorer, 1.0, 100)
    found = [lab.score((TF32,)), lab.score((SINKS, TF32))]
    assert [capture is not None for capture in found] == [usable, usable]
    assert lab.moved == ({} if usable else {"attention_products": pytest.approx(0.44)})
    # The control and the plain reference, once each, and on few rows.
    controls = [job for job in scorer.jobs if job.first_rows is not None]
    assert [job.alter[0].value if job.alter else None for job in controls] == ["exact", None]


def test_what_does_not_apply_is_not_asked_again() -> None:
    scorer = Scorer(NotApplicableError)
    lab = Lab(scorer, 1.0, 100)
    assert lab.score((SINKS,)) is None
    assert lab.score((SINKS,)) is None
    assert len(scorer.jobs) == 1


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(EngineError):
        Lab(Scorer(EngineError), 1.0, 100).score(())


def test_after_the_budget_only_what_is_known_is_told() -> None:
    scorer = Scorer()
    lab = Lab(scorer, 1.0, 100)
    lab.score(())
    lab.deadline = 0.0
    assert lab.score(()) is ANSWER
    with pytest.raises(OutOfTimeError):
        lab.score((SINKS,))
    assert len(scorer.jobs) == 1


@pytest.mark.parametrize(
    # 48 MiB hold 12 582 912 numbers of four bytes.
    ("vocabulary", "positions"), [(4096, 3072), (200_000, 64), (0, 12_582_912)],
)  # fmt: skip
def test_as_many_positions_as_memory_allows(vocabulary: int, positions: int) -> None:
    scorer = Scorer()
    Lab(scorer, 1.0, vocabulary).score(())
    assert scorer.jobs[0].plan.probe_positions == positions


def test_packed_rows_are_scored_as_the_trainer_puts_them_together() -> None:
    scorer = Scorer()
    plan = CapturePlan(probe_positions=3)
    lab = Lab(scorer, 1.0, 100, packed=PackedAs(micro_batch=5, plan=plan, taps=True))
    # All rows, whoever asks for the first: a leak depends on the neighbours.
    assert lab.score((), "leaky", first_rows=8) is lab.score((), "leaky")
    lab.score(())
    packed, plain = scorer.jobs
    assert (packed.packing, packed.micro_batch, packed.first_rows) == ("leaky", 5, None)
    assert (packed.plan, packed.taps) == (plan, True)
    assert (plain.packing, plain.micro_batch, plain.taps) == (None, None, False)


def test_the_reference_runs_in_fp32(tmp_path: Path) -> None:
    eager = side("ref", engine="hf", args={"attn_implementation": "eager"})
    with open_session(eager.model_copy(update={"dtype": "bfloat16"}), tmp_path) as session:
        assert session.spec.dtype == "float32"
        assert session.spec.args == {"attn_implementation": "eager", "micro_batch": 8}
    with open_session(side("ref"), tmp_path) as session:
        assert session.spec.args == {}
