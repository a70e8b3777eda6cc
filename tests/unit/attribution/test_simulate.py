"""The lab asks once, keeps what it was told, and stops when its budget is used up.

What an altered reference or a transformed distribution says of tokens.

One row of a prompt token and three sampled ones; token ids 0, 1, 2, 3 of a vocabulary of four.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import NAN, FakeSimulator, altered_by, answered, side

from mismatch_lab.attribution.hypotheses import Hypothesis, RowChange, TokenChange
from mismatch_lab.attribution.simulate import (
    OutOfTimeError,
    Prediction,
    Predictor,
    Simulator,
    open_session,
)
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import EngineError, NoRoomError, NotApplicableError
from mismatch_lab.measures.grids import to_bfloat16
from mismatch_lab.schema import Alteration

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
    simulator = Simulator(scorer, 0.7, 100)
    for _ in range(2):
        assert simulator.score((SINKS,)) is ANSWER
        assert simulator.score((SINKS, WINDOW)) is ANSWER
        assert simulator.score((SINKS,), first_rows=8) is ANSWER
    assert [(job.alter, job.first_rows) for job in scorer.jobs] == [
        ((SINKS,), None), ((SINKS, WINDOW), None), ((SINKS,), 8),
    ]  # fmt: skip
    assert len({job.id for job in scorer.jobs}) == 3
    assert all((job.source, job.temperature, job.probes) == ("decode", 0.7, True)
               for job in scorer.jobs)  # fmt: skip
    assert len(simulator.spent) == 3


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
    simulator = Simulator(scorer, 1.0, 100)
    found = [simulator.score((TF32,)), simulator.score((SINKS, TF32))]
    assert [capture is not None for capture in found] == [usable, usable]
    assert simulator.moved == ({} if usable else {"attention_products": pytest.approx(0.44)})
    # The control and the plain reference, once each, and on few rows.
    controls = [job for job in scorer.jobs if job.first_rows is not None]
    assert [job.alter[0].value if job.alter else None for job in controls] == ["exact", None]


def test_what_had_no_room_is_kept_apart_from_what_does_not_apply() -> None:
    for error, kept in ((NotApplicableError, set()), (NoRoomError, {SINKS.name})):
        simulator = Simulator(Scorer(error), 1.0, 100)
        assert simulator.score((SINKS,)) is None
        assert simulator.no_room == kept


def test_what_does_not_apply_is_not_asked_again() -> None:
    scorer = Scorer(NotApplicableError)
    simulator = Simulator(scorer, 1.0, 100)
    assert simulator.score((SINKS,)) is None
    assert simulator.score((SINKS,)) is None
    assert len(scorer.jobs) == 1


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(EngineError):
        Simulator(Scorer(EngineError), 1.0, 100).score(())


def test_after_the_budget_only_what_is_known_is_told() -> None:
    scorer = Scorer()
    simulator = Simulator(scorer, 1.0, 100)
    simulator.score(())
    simulator.deadline = 0.0
    assert simulator.score(()) is ANSWER
    with pytest.raises(OutOfTimeError):
        simulator.score((SINKS,))
    assert len(scorer.jobs) == 1


@pytest.mark.parametrize(
    # 48 MiB hold 12 582 912 numbers of four bytes.
    ("vocabulary", "positions"), [(4096, 3072), (200_000, 64), (0, 12_582_912)],
)  # fmt: skip
def test_as_many_positions_as_memory_allows(vocabulary: int, positions: int) -> None:
    scorer = Scorer()
    Simulator(scorer, 1.0, vocabulary).score(())
    assert scorer.jobs[0].plan.probe_positions == positions


def test_packed_rows_are_scored_as_the_trainer_put_them_together() -> None:
    scorer = Scorer()
    simulator = Simulator(scorer, 1.0, 100)
    # All rows, whoever asks for the first: a leak depends on the neighbours.
    assert simulator.score((), "leaky", first_rows=8) is simulator.score((), "leaky")
    simulator.score(())
    packed, plain = scorer.jobs
    assert (packed.packing, packed.packs_from, packed.first_rows) == ("leaky", "train", None)
    assert (plain.packing, plain.packs_from) == (None, None)


def test_the_reference_runs_in_fp32(tmp_path: Path) -> None:
    eager = side("ref", engine="hf", args={"attn_implementation": "eager"})
    with open_session(eager.model_copy(update={"dtype": "bfloat16"}), tmp_path) as session:
        assert session.spec.dtype == "float32"
        assert session.spec.args == {"attn_implementation": "eager", "micro_batch": 8}
    with open_session(side("ref"), tmp_path) as session:
        assert session.spec.args == {}


PLAIN = answered([-1.0, -2.0, -3.0])
ALTERED = answered([-1.5, -2.25, -3.0])
PROBED = replace(
    PLAIN,
    probe_positions=np.array([2, 3]),
    probe_logp=np.log(
        np.array([[0.25, 0.25, 0.5, 1e-9], [0.125, 0.5, 0.25, 0.125]], np.float32)
    ),
)  # fmt: skip
ROUNDED = Hypothesis("logprob-precision", "", tokens=(TokenChange("decimals", 0.0),))
SHIFTED = Hypothesis("shift-by-one", "", tokens=(TokenChange("shift", 1.0),))
SCALED = Hypothesis("logit-scale", "", rows=(RowChange("scale", 2.0),))


def says(prediction: Prediction | None) -> tuple[list[int], list[float]]:
    assert prediction is not None
    return prediction.flat.tolist(), prediction.logp.tolist()


def test_without_a_defect_it_is_the_reference() -> None:
    simulator = FakeSimulator({(): PLAIN})
    assert says(Predictor(simulator, None, 1.0).predict(())) == ([1, 2, 3], [-1.0, -2.0, -3.0])


def test_alterations_of_all_hypotheses_go_to_the_lab_together() -> None:
    simulator = FakeSimulator({("a", "b"): ALTERED})
    predictor = Predictor(simulator, None, 1.0)
    found = predictor.predict((altered_by("a"), altered_by("b")))
    assert says(found) == ([1, 2, 3], [-1.5, -2.25, -3.0])
    assert predictor.predict((altered_by("c"),)) is None  # the model has no such part


def test_exploring_asks_for_the_first_rows_only() -> None:
    simulator = FakeSimulator({(): PLAIN})
    Predictor(simulator, None, 1.0).small(8).predict(())
    assert simulator.asked == [((), None, 8)]


def test_token_changes_follow_the_alterations() -> None:
    simulator = FakeSimulator({("a",): ALTERED})
    flat, logp = says(Predictor(simulator, None, 1.0).predict((altered_by("a"), SHIFTED)))
    assert flat == [1, 2, 3]
    assert logp == pytest.approx([-2.25, -3.0, NAN], nan_ok=True)


def test_row_changes_speak_of_probed_tokens() -> None:
    # Squares: 1/4 of 1/16 + 1/16 + 1/4 is 2/3; 1/64 of 1/64 + 1/4 + 1/16 + 1/64 is 1/22.
    flat, logp = says(Predictor(FakeSimulator({(): PROBED}), None, 1.0).predict((SCALED,)))
    assert flat == [2, 3]
    assert np.exp(logp) == pytest.approx([2 / 3, 1 / 22])


def test_row_changes_compose_and_are_then_rounded() -> None:
    kept = Hypothesis("sampler-truncation", "", rows=(RowChange("top_k", 1.0),))
    bf16 = Hypothesis("logprob-precision", "", tokens=(TokenChange("through_bfloat16"),))
    predictor = Predictor(FakeSimulator({(): PROBED}), None, 1.0)
    # Only the likeliest is left, before or after squaring: token 2 at position 2, 1 at position 3.
    assert says(predictor.predict((SCALED, kept))) == ([2, 3], [0.0, -np.inf])
    (_, rounded), (_, exact) = (
        says(predictor.predict((SCALED, bf16))),
        says(predictor.predict((SCALED,))),
    )
    assert rounded == to_bfloat16(np.array(exact)).tolist() != exact


def test_a_shift_cannot_follow_changed_rows_nor_rows_be_changed_without_probes() -> None:
    assert Predictor(FakeSimulator({(): PROBED}), None, 1.0).predict((SCALED, SHIFTED)) is None
    assert Predictor(FakeSimulator({(): PLAIN}), None, 1.0).predict((SCALED,)) is None


def test_probes_of_prompts_are_left_out() -> None:
    longer = replace(
        PROBED, rows=replace(PROBED.rows, sampled=np.array([False, False, False, True]))
    )
    flat, _ = says(Predictor(FakeSimulator({(): longer}), None, 1.0).predict((SCALED,)))
    assert flat == [3]


def test_held_against_its_own_capture_an_alteration_is_carried_over() -> None:
    own = answered([-1.25, -2.0, -2.5])
    predictor = Predictor(FakeSimulator({(): PLAIN, ("a",): ALTERED}), own, 1.0)
    assert says(predictor.predict(())) == ([1, 2, 3], [-1.25, -2.0, -2.5])
    # The alteration takes 0.5, 0.25 and 0 from the reference.
    assert says(predictor.predict((altered_by("a"),))) == ([1, 2, 3], [-1.75, -2.25, -2.5])
    assert predictor.predict((altered_by("missing"),)) is None
    assert predictor.predict((altered_by("a"), SCALED)) is None  # whole rows cannot be carried over


def test_its_own_distributions_are_changed() -> None:
    predictor = Predictor(FakeSimulator({}), PROBED, 1.0)
    assert np.exp(says(predictor.predict((SCALED,)))[1]) == pytest.approx([2 / 3, 1 / 22])


def test_packing_is_asked_for() -> None:
    simulator = FakeSimulator({("leaky",): ALTERED})
    packed = Hypothesis("packing-leak", "", packing="leaky")
    assert says(Predictor(simulator, None, 1.0).predict((packed,)))[1] == [-1.5, -2.25, -3.0]
    assert simulator.asked == [((), "leaky", None)]


def test_rounding_to_whole_numbers_is_a_token_change() -> None:
    simulator = FakeSimulator({(): ALTERED})
    assert says(Predictor(simulator, None, 1.0).predict((ROUNDED,)))[1] == [-2.0, -2.0, -3.0]
