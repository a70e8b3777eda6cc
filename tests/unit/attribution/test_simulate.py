"""What an altered reference or a transformed distribution says of tokens.

One row of a prompt token and three sampled ones; token ids 0, 1, 2, 3 of a vocabulary of four.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import NAN, FakeLab, altered_by, answered

from mismatch_lab.attribution.hypotheses import Hypothesis, RowChange, TokenChange
from mismatch_lab.attribution.simulate import Prediction, World
from mismatch_lab.measures.grids import to_bfloat16

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
    lab = FakeLab({(): PLAIN})
    assert says(World(lab, None, 1.0).predict(())) == ([1, 2, 3], [-1.0, -2.0, -3.0])


def test_alterations_of_all_hypotheses_go_to_the_lab_together() -> None:
    lab = FakeLab({("a", "b"): ALTERED})
    world = World(lab, None, 1.0)
    found = world.predict((altered_by("a"), altered_by("b")))
    assert says(found) == ([1, 2, 3], [-1.5, -2.25, -3.0])
    assert world.predict((altered_by("c"),)) is None  # the model has no such part


def test_exploring_asks_for_the_first_rows_only() -> None:
    lab = FakeLab({(): PLAIN})
    World(lab, None, 1.0).small(8).predict(())
    assert lab.asked == [((), None, 8)]


def test_token_changes_follow_the_alterations() -> None:
    lab = FakeLab({("a",): ALTERED})
    flat, logp = says(World(lab, None, 1.0).predict((altered_by("a"), SHIFTED)))
    assert flat == [1, 2, 3]
    assert logp == pytest.approx([-2.25, -3.0, NAN], nan_ok=True)


def test_row_changes_speak_of_probed_tokens() -> None:
    # Squares: 1/4 of 1/16 + 1/16 + 1/4 is 2/3; 1/64 of 1/64 + 1/4 + 1/16 + 1/64 is 1/22.
    flat, logp = says(World(FakeLab({(): PROBED}), None, 1.0).predict((SCALED,)))
    assert flat == [2, 3]
    assert np.exp(logp) == pytest.approx([2 / 3, 1 / 22])


def test_row_changes_compose_and_are_then_rounded() -> None:
    kept = Hypothesis("sampler-truncation", "", rows=(RowChange("top_k", 1.0),))
    bf16 = Hypothesis("logprob-precision", "", tokens=(TokenChange("through_bfloat16"),))
    world = World(FakeLab({(): PROBED}), None, 1.0)
    # Only the likeliest is left, before or after squaring: token 2 at position 2, 1 at position 3.
    assert says(world.predict((SCALED, kept))) == ([2, 3], [0.0, -np.inf])
    (_, rounded), (_, exact) = says(world.predict((SCALED, bf16))), says(world.predict((SCALED,)))
    assert rounded == to_bfloat16(np.array(exact)).tolist() != exact


def test_a_shift_cannot_follow_changed_rows_nor_rows_be_changed_without_probes() -> None:
    assert World(FakeLab({(): PROBED}), None, 1.0).predict((SCALED, SHIFTED)) is None
    assert World(FakeLab({(): PLAIN}), None, 1.0).predict((SCALED,)) is None


def test_probes_of_prompts_are_left_out() -> None:
    longer = replace(
        PROBED, rows=replace(PROBED.rows, sampled=np.array([False, False, False, True]))
    )
    flat, _ = says(World(FakeLab({(): longer}), None, 1.0).predict((SCALED,)))
    assert flat == [3]


def test_held_against_its_own_capture_an_alteration_is_carried_over() -> None:
    own = answered([-1.25, -2.0, -2.5])
    world = World(FakeLab({(): PLAIN, ("a",): ALTERED}), own, 1.0)
    assert says(world.predict(())) == ([1, 2, 3], [-1.25, -2.0, -2.5])
    # The alteration takes 0.5, 0.25 and 0 from the reference.
    assert says(world.predict((altered_by("a"),))) == ([1, 2, 3], [-1.75, -2.25, -2.5])
    assert world.predict((altered_by("missing"),)) is None
    assert world.predict((altered_by("a"), SCALED)) is None  # whole rows cannot be carried over


def test_its_own_distributions_are_changed() -> None:
    world = World(FakeLab({}), PROBED, 1.0)
    assert np.exp(says(world.predict((SCALED,)))[1]) == pytest.approx([2 / 3, 1 / 22])


def test_packing_is_asked_for() -> None:
    lab = FakeLab({("leaky",): ALTERED})
    packed = Hypothesis("packing-leak", "", packing="leaky")
    assert says(World(lab, None, 1.0).predict((packed,)))[1] == [-1.5, -2.25, -3.0]
    assert lab.asked == [((), "leaky", None)]


def test_rounding_to_whole_numbers_is_a_token_change() -> None:
    lab = FakeLab({(): ALTERED})
    assert says(World(lab, None, 1.0).predict((ROUNDED,)))[1] == [-2.0, -2.0, -3.0]
