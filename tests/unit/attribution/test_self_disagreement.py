"""A trainer held against itself: which contradiction is of which kind. Noise is 0.01 nats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import answered

from mismatch_lab.attribution.self_disagreement import self_disagreements
from mismatch_lab.captures.capture import Capture

ONCE = answered([-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0])
OFF = answered([-1.25, -2.25, -3.25])
"""The first row, off by 0.25 nats: self-comparisons have fewer rows."""
SAME = answered([-1.0, -2.0, -3.0])


def kinds(**others: Capture) -> list[tuple[str, str, float]]:
    found = self_disagreements({"train": ONCE, **others}, 0.01)
    return [(f.cause, f.against, f.abs_delta_nats) for f in found]


def test_a_trainer_that_says_the_same_every_time() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=SAME, train_mode=SAME) == []
    near = answered([-1.005, -2.0, -3.0])  # noise
    assert kinds(train_repeat=near) == []
    assert kinds() == []


def test_the_same_pass_again_differs_where_it_is_random() -> None:
    expected = [("dropout-active", "train_repeat", 0.25)]
    assert kinds(train_repeat=OFF, train_micro_batch=OFF, train_mode=OFF) == expected


def test_another_batch_alone() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=OFF, train_mode=SAME) == [
        ("batch-variance", "train_micro_batch", 0.25)
    ]


def test_training_mode_alone() -> None:
    assert kinds(train_repeat=SAME, train_micro_batch=SAME, train_mode=OFF) == [
        ("dropout-active", "train_mode", 0.25)
    ]


def test_training_mode_counts_beside_repetition_where_it_adds_its_own() -> None:
    far = answered([-1.75, -2.75, -3.75])  # three times as far
    assert kinds(train_repeat=OFF, train_mode=far) == [
        ("dropout-active", "train_repeat", 0.25),
        ("dropout-active", "train_mode", 0.75),
    ]


def routed(capture: Capture, chosen: list[int], gate: float = 1.0) -> Capture:
    """With one of two experts chosen at each token, and the router's logits times `gate`."""
    logits = gate * np.ones((len(chosen), 1, 2), np.float32)
    topk = np.array(chosen, np.int16).reshape(-1, 1, 1)
    return replace(capture, router_topk=topk, router_logits=logits)


def test_tokens_after_a_change_of_experts_only_is_the_routers_doing() -> None:
    first = routed(ONCE, [0] * 8)
    # Another expert at token 1: the log-probs of tokens 2 and 3 are behind it.
    again = routed(answered([-1.0, -2.25, -3.25]), [0, 1, 0, 0])
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == "routing-two-pass"
    # 0.5 over three tokens; 0.25 after the change, 0 before; the routers' logits are the same.
    assert [e.value for e in found.evidence] == pytest.approx([0.5 / 3, 0.25, 0.0, 0.0, 0.0])


def test_tokens_before_it_too_is_not() -> None:
    first = routed(ONCE, [0] * 8)
    again = routed(answered([-1.25, -2.25, -3.25]), [0, 1, 0, 0])
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == "dropout-active"
    same_experts = routed(answered([-1.25, -2.25, -3.25]), [0] * 4)
    (found,) = self_disagreements({"train": first, "train_micro_batch": same_experts}, 0.01)
    assert found.cause == "batch-variance"


@pytest.mark.parametrize(("gate", "cause"), [(1.0, "routing-two-pass"), (1.1, "dropout-active")])
def test_where_no_token_comes_before_the_first_router_decides(gate: float, cause: str) -> None:
    first = routed(ONCE, [0] * 8)
    again = routed(answered([-1.25, -2.25, -3.25]), [1, 0, 0, 0], gate)
    (found,) = self_disagreements({"train": first, "train_repeat": again}, 0.01)
    assert found.cause == cause
    assert found.evidence[-2].value == pytest.approx(gate - 1, abs=1e-6)


def test_a_choice_that_changes_with_its_logits_is_not_the_routers_doing() -> None:
    """Row of four: token 2's logits and choice change, those before are the same to the bit."""
    first = routed(answered([-1.0, -2.0, -3.0]), [0] * 4)
    logits = np.ones((4, 1, 2), np.float32)
    logits[2] = [1.0, 1.5]
    again = replace(routed(answered([-1.0, -2.0, -3.5]), [0, 0, 1, 0]), router_logits=logits)
    (found,) = self_disagreements({"train": first, "train_micro_batch": again}, 0.01)
    assert found.cause == "batch-variance"
    # 0.5 / sqrt(2) over one unit in the last place of float32
    assert found.evidence[-1].value == pytest.approx(0.5 / 2**0.5 / np.finfo(np.float32).eps)
