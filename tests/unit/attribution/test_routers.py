"""Choices of routers against their own logits and against the reference's, by hand.

Two rows of three tokens, one layer, four experts, two of them chosen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import answered

from mismatch_lab.attribution.context import Measured, where_simulated
from mismatch_lab.attribution.routers import RouterChoices, layer_number, router_choices
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Localisation, ModuleError, NoiseFloor

LOGITS = [3.0, 2.0, 1.0, 0.0]
"""Experts 0 and 1 are the top two; the deviation is sqrt(1.25) = 1.118."""


def side(
    chosen: list[tuple[int, int]], logits: list[float] | None = None, logp: float = -1.0
) -> Capture:
    return replace(
        answered([logp, logp], [-1.0, -1.0]),
        router_topk=np.array(chosen, np.int16).reshape(6, 1, 2),
        router_logits=np.array([[logits or LOGITS]] * 6, np.float32),
    )


TOP = [(0, 1)] * 6
OTHER = [(0, 2), *TOP[1:]]
REFERENCE = side(TOP)


def choices(of: Capture) -> RouterChoices:
    found = router_choices(of, REFERENCE)
    assert found is not None
    return found


def test_a_sound_router() -> None:
    found = choices(side([(1, 0), *TOP[1:]]))  # in either order
    assert (found.against_own_logits, found.directed, found.first_layer) == (0, 0, None)
    assert (found.changed, found.gate_error, found.quiet_nats) == (0, 0, 0)
    assert np.isnan(found.margin)
    assert np.isnan(found.loud_nats)  # nothing comes after a change


def test_a_bias_moves_all_choices_one_way() -> None:
    found = choices(side([(0, 2), (0, 1), (0, 2), *TOP[3:]]))
    # 2 of 6 choices take expert 2 for expert 1: 2 nats of the 2 that moved, both ways.
    assert found.against_own_logits == pytest.approx(1 / 3)
    assert found.directed == 1.0
    assert found.margin == pytest.approx(1 / np.sqrt(1.25))
    assert found.first_layer == 0
    assert found.changed == pytest.approx(1 / 3)


def test_flips_go_either_way() -> None:
    tied = [3.0, 1.1, 1.0, 0.0]
    other = np.array([3.0, 1.0, 1.1, 0.0], np.float32)
    flipped = side([(0, 2), (0, 1), *TOP[2:]], tied)
    assert flipped.router_logits is not None
    flipped.router_logits[1, 0] = other
    found = choices(flipped)
    # Expert 2 gains once and loses once: nothing on balance.
    assert (found.directed, found.first_layer) == (0, 0)
    assert found.margin == pytest.approx(0.1 / np.std(tied), rel=1e-4)


def test_equal_logits_may_be_taken_either_way() -> None:
    found = choices(side([(0, 2), *TOP[1:]], [3.0, 1.0, 1.0, 0.0]))
    assert found.against_own_logits == 0


def test_errors_before_and_after_a_change_of_choices() -> None:
    # The input at token 0 of row 0 goes to other experts: tokens 1 and 2 are behind it.
    found = choices(side([(2, 3), *TOP[1:]], logp=-1.5))
    assert (found.loud_nats, found.quiet_nats) == (0.5, 0.0)
    later = choices(side([TOP[0], TOP[1], (2, 3), *TOP[3:]], logp=-1.5))
    assert np.isnan(later.loud_nats)  # nothing follows the last token of a row
    assert later.quiet_nats == 0.25  # 0.5, 0.5, 0, 0


def test_the_first_routers_logits_are_compared() -> None:
    assert choices(side(TOP, [3.3, 2.2, 1.1, 0.0])).gate_error == pytest.approx(0.1, rel=1e-5)


def test_unrecorded_tokens_are_left_out() -> None:
    found = choices(side([(-1, -1), (0, 2), *TOP[2:]]))
    assert found.against_own_logits == pytest.approx(1 / 5)
    assert found.changed == pytest.approx(1 / 5)


def test_a_dense_model_has_none() -> None:
    assert router_choices(answered([-1.0]), REFERENCE) is None
    assert router_choices(REFERENCE, answered([-1.0])) is None


# Reference routers that add a bias of +2 to expert 2: it is chosen before expert 1.
BIASED = [(0, 2)] * 6


def test_what_both_sides_do_alike_is_not_against_anything() -> None:
    """A correction bias on both sides (GLM-4 MoE): each chooses against its own logits."""
    found = router_choices(side(BIASED), side(BIASED))
    assert found is not None
    assert (found.against_own_logits, found.first_layer) == (0, None)
    assert (found.uncorrected, found.first_uncorrected) == (0, None)


def test_a_side_without_the_references_correction_is_seen() -> None:
    """It takes the largest logits at all six tokens, the reference at none."""
    reference = replace(side(BIASED), weights={"model.layers.3.mlp.gate.weight": {}})
    found = router_choices(side(TOP), reference)
    assert found is not None
    assert (found.uncorrected, found.first_uncorrected) == (1.0, 3)
    assert found.against_own_logits == 0


def test_a_flip_beside_a_correction_is_no_lack_of_it() -> None:
    found = router_choices(side([TOP[0], *BIASED[1:]]), side(BIASED))
    assert found is not None
    assert found.uncorrected == 0


def test_layers_without_a_router_are_counted() -> None:
    names = [f"model.layers.{i}.mlp.gate.weight" for i in (1, 2)]
    dense = ["model.layers.0.mlp.gate_proj.weight", "lm_head.weight"]
    capture = replace(REFERENCE, weights={name: {} for name in (*dense, *names)})
    assert [layer_number(i, capture, 2) for i in (0, 1)] == [1, 2]
    assert layer_number(0, capture, 3) == 0  # the names do not fit
    assert layer_number(None, capture, 2) is None


def layered(chosen: list[list[tuple[int, int]]], logits: bool = False) -> Capture:
    """Two rows of three tokens; choices [token][layer] in two layers, the reference's logits."""
    return replace(
        answered([-1.0, -1.0], [-1.0, -1.0]),
        router_topk=np.array(chosen, np.int16),
        router_logits=np.array([[LOGITS] * 2] * 6, np.float32) if logits else None,
    )


PLAIN = [[(0, 1), (0, 1)] for _ in range(6)]
TWO_LAYERS = layered(PLAIN, logits=True)


def otherwise(*places: tuple[int, int], choice: tuple[int, int] = (0, 2)) -> Capture:
    chosen = [list(row) for row in PLAIN]
    for token, layer in places:
        chosen[token][layer] = choice
    return layered(chosen)


def test_choices_alone_are_held_against_the_references_until_one_changes() -> None:
    """Token 1 chooses otherwise in layer 0: what layer 1 does there and at token 2 is no news, what
    layer 0 does at token 2 is, and so is all of the other row.
    """
    side = otherwise((1, 0), (1, 1), (2, 0), (2, 1), (4, 1))
    found = router_choices(side, TWO_LAYERS, TWO_LAYERS)
    assert found is not None
    assert found.by_reference
    assert found.against_own_logits == 3 / 12  # (1, 0), (2, 0) and (4, 1)
    # Expert 2, a logit below expert 1, is taken every time.
    assert (found.directed, found.first_layer) == (1.0, 0)
    assert found.margin == pytest.approx(1 / np.sqrt(1.25))
    assert found.changed == 3 / 6
    assert np.isnan(found.gate_error)


def test_what_precision_chooses_as_often_says_nothing() -> None:
    side = otherwise((0, 0), (1, 0), (3, 0), (4, 0))
    assert router_choices(side, TWO_LAYERS, otherwise((3, 0))) is not None  # 4 are more than 3
    assert router_choices(side, TWO_LAYERS, otherwise((0, 0), (3, 0))) is None  # not than 6
    assert router_choices(side, TWO_LAYERS, None) is None
    assert router_choices(otherwise(), TWO_LAYERS, TWO_LAYERS) is None


def test_choices_of_other_layers_are_not_held_against_these() -> None:
    side = otherwise((0, 0))
    assert side.router_topk is not None
    three = replace(
        side, router_topk=np.concatenate([side.router_topk, side.router_topk[:, :1]], 1)
    )
    assert router_choices(three, TWO_LAYERS, TWO_LAYERS) is None


@pytest.mark.parametrize(
    ("chosen", "first", "kind", "suspect", "there"),
    [
        (OTHER, "model.layers.0.mlp.experts", "experts", "train", False),
        (TOP, "model.layers.0.mlp.experts", "experts", "train", True),  # by their logits
        (OTHER, "model.layers.0.self_attn", "attention", "train", True),  # before the choices
        (OTHER, "model.layers.1.mlp.experts", "experts", "train", True),  # not the first choices
        (OTHER, "model.norm", "norm", "train", True),
        (OTHER, "model.layers.0.mlp.experts", "experts", "infer", True),  # the other side's
    ],
)
def test_what_choices_account_for_says_nothing_of_where_else_a_side_is_wrong(
    chosen: list[tuple[int, int]], first: str, kind: str, suspect: str, there: bool
) -> None:
    where = Localisation(
        depth="standard",
        method="",
        first_divergent_module=first,
        side="train",
        per_module=[ModuleError(name=first, kind=kind, cumulative=0.5, diverges=True, n=4)],
    )
    captures = {"train": side(chosen), "prefill": side(TOP), "ref": REFERENCE}
    measured = Measured(captures, {}, NoiseFloor.model_construct(), where, {})
    assert where_simulated(measured, suspect) == (where if there else None)
