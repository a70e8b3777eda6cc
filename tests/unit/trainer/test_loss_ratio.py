"""Every combination of old log-probs, correction and on-policy ratio: as its table says."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.loss_ratio import RATIOS, ratio_of
from mismatch_lab.trainer.objective import Objective
from mismatch_lab.trainer.run import check

LOGP = {"infer": -1.0, "train": -0.95, "now": -0.85}
"""All ratios are inside the clip: exp(0.15) = 1.16."""

KINDS = {"no": None, "weighs": "truncate", "rejects": "geometric"}


def a_config(old: str, corrects: str, on_policy: bool) -> TrainConfig:
    settings: dict[str, Any] = {"loss.old": old, "fixes": ["on-policy-ratio"] * on_policy}
    if KINDS[corrects]:
        settings["fixes"] = [*settings["fixes"], "rollout-correction"]
        settings |= {"correction.kind": KINDS[corrects], "correction.high": 2.0}
    return read_config(None, settings)


def factor(config: TrainConfig, update: int) -> float:
    """What the gradient of a token with advantage 1 is multiplied by."""
    one = torch.ones(1, 1)
    batch = Batch(one.long(), torch.ones(1).long(), one, one * LOGP["infer"], torch.ones(1))
    logp = (one * LOGP["now"]).requires_grad_(True)
    objective = Objective.of(config, batch, one * LOGP["train"], None)
    loss, _ = objective.loss(logp, batch.take([0]), [0], update)
    torch.autograd.backward(loss)
    assert logp.grad is not None
    return -float(logp.grad)


def value(ratio: str) -> float:
    """`now/train` or `now train/infer^2` in numbers."""
    if ratio == "1":
        return 1.0
    above, below = ratio.split("/")
    name, _, power = below.partition("^")
    nats = sum(LOGP[policy] for policy in above.split()) - int(power or 1) * LOGP[name]
    return math.exp(nats)


def test_the_table_has_every_combination() -> None:
    assert set(RATIOS) == set(product(("scored", "infer"), KINDS, (False, True)))


@pytest.mark.parametrize("combination", RATIOS, ids=str)
def test_the_loss_does_what_the_table_says(combination: tuple[str, str, bool]) -> None:
    config = a_config(*combination)
    ratio = ratio_of(config)
    assert ratio is RATIOS[combination]  # type: ignore[index]
    assert factor(config, 0) == pytest.approx(value(ratio.first), abs=1e-5)
    assert factor(config, 1) == pytest.approx(value(ratio.later), abs=1e-5)


@pytest.mark.parametrize("combination", RATIOS, ids=str)
def test_what_weighs_twice_or_undoes_itself_is_refused(combination: tuple[str, str, bool]) -> None:
    old, corrects, on_policy = combination
    config = a_config(*combination)
    if old == "infer" and corrects == "weighs":
        with pytest.raises(InputError, match=r"weighed already.*now train/infer\^2"):
            check(config)
    elif old == "infer" and on_policy:
        with pytest.raises(InputError, match=r"on-policy-ratio sets to 1 .* loss\.old = infer"):
            check(config)
    else:
        check(config)
