"""Routing: which choice belongs to which scored token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import NAN, capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.fingerprint import fingerprint_array
from mismatch_lab.findings.routing import measure_routing, of_routers
from mismatch_lab.schema import RoutingFindings

INFER, TRAIN = [-1.0, -1.0], [-1.5, -1.125]
"""Row 0: deltas of 0.5 and 0.125 nats; flat tokens 0 (prompt), 1 and 2."""


def both(flips: dict[tuple[int, int], list[int]]) -> dict[str, Capture]:
    """Two rows of 3 tokens, 2 layers, 2 of 4 experts: all choose 0 and 1, but for the trainer's
    `flips` by (flat token, layer). Deltas of row 1 are those of row 0.
    """
    same = np.tile(np.array([0, 1], np.int16), (6, 2, 1))
    other = same.copy()
    for (token, layer), choice in flips.items():
        other[token, layer] = choice
    return {
        "prefill": replace(capture(INFER, INFER), router_topk=same),
        "train": replace(capture(TRAIN, TRAIN), router_topk=other),
    }


def routing(flips: dict[tuple[int, int], list[int]]) -> RoutingFindings:
    found = measure_routing(both(flips))
    assert found is not None
    return found


def test_the_choice_at_the_token_before_shapes_the_scored_one() -> None:
    found = routing({(0, 1): [0, 3]})
    # Flat token 1, whose delta is 0.5, was drawn from what the prompt token's experts made.
    assert (found.abs_delta_flipped.value, found.abs_delta_flipped.n) == (0.5, 1)
    # The others: 0.125, 0.5, 0.125.
    assert (found.abs_delta_unflipped.value, found.abs_delta_unflipped.n) == (0.25, 3)
    assert found.flipped_token_share.value == 0.25
    # 4 scored tokens in 2 layers; one (token, layer) shares 1 of 2 experts.
    assert found.set_overlap.value == 1 - 0.5 / 8
    assert found.top1_agreement.value == 1.0
    assert [layer.set_overlap.value for layer in found.per_layer] == [1.0, 1 - 0.5 / 4]
    assert [layer.layer for layer in found.per_layer] == [0, 1]


@pytest.mark.parametrize("token", [2, 5])
def test_the_choice_at_a_rows_last_token_shapes_nothing(token: int) -> None:
    found = routing({(token, 0): [2, 3]})
    assert found.flipped_token_share.value == 0.0
    assert found.set_overlap.value == 1.0
    assert found.abs_delta_flipped.n == 0
    assert np.isnan(found.abs_delta_flipped.value)


def test_the_order_of_experts_matters_for_top1_only() -> None:
    found = routing({(3, 0): [1, 0]})
    assert found.top1_agreement.value == 1 - 1 / 8
    assert found.set_overlap.value == 1.0
    assert found.flipped_token_share.value == 0.0


def test_choices_that_were_not_recorded_are_left_out() -> None:
    found = routing({(0, 0): [-1, -1], (0, 1): [-1, -1]})
    assert (found.flipped_token_share.n, found.flipped_token_share.n_dropped) == (3, 1)


def test_a_token_without_a_log_prob_is_in_neither_mean() -> None:
    captures = both({(0, 0): [2, 3], (3, 0): [2, 3]})
    captures["train"] = replace(captures["train"], logp=captures["train"].logp.copy())
    captures["train"].logp[1] = NAN
    found = measure_routing(captures)
    assert found is not None
    flipped = found.abs_delta_flipped
    assert (flipped.value, flipped.n, flipped.n_dropped) == (0.5, 1, 1)


@pytest.mark.parametrize("side", ["prefill", "train"])
def test_a_dense_side_has_no_routing(side: str) -> None:
    captures = both({})
    dense = captures | {side: replace(captures[side], router_topk=None)}
    assert measure_routing(dense) is None
    del captures[side]
    assert measure_routing(captures) is None


def test_each_side_is_held_against_the_reference_too() -> None:
    captures = both({(0, 1): [0, 3]})
    captures["ref"] = captures["prefill"]
    found = [measure_routing(captures, edge) for edge in ("infer_ref", "train_ref")]
    assert [one.flipped_token_share.value for one in found if one is not None] == [0, 0.25]
    alone = {name: captures[name] for name in ("train", "ref")}
    assert measure_routing(alone) is None
    assert measure_routing(alone, "infer_ref") is None


def test_choices_of_another_number_of_layers_are_not_compared() -> None:
    captures = both({})
    topk = captures["train"].router_topk
    assert topk is not None
    captures["train"] = replace(captures["train"], router_topk=topk[:, :1])
    assert measure_routing(captures) is None


def test_layers_without_a_router_are_left_out() -> None:
    """An engine that counts every layer of four; routers are in layers 1 and 3."""
    captures = both({})
    gates = {
        f"model.layers.{n}.mlp.{kind}.weight": fingerprint_array(np.ones((2, 2), np.float32))
        for n, kind in enumerate(("down_proj", "gate", "gate_proj", "gate"))
    }
    captures["ref"] = replace(captures["prefill"], weights=gates)
    every = np.zeros((6, 4, 2), np.int16)
    every[:, [1, 3]] = captures["ref"].router_topk
    captures["prefill"] = replace(captures["prefill"], router_topk=every)
    found = of_routers(captures)
    assert np.array_equal(found["prefill"].router_topk, captures["ref"].router_topk)
    assert found["train"] is captures["train"]
