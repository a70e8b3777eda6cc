"""Tensors that are spread over the workers of an engine, against those that it was sent."""

from dataclasses import replace

import pytest
import torch

from mismatch_lab.engines.fingerprint import fingerprint_tensors
from mismatch_lab.errors import InputError
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.engine_weights import Held, compare
from mismatch_lab.trainer.run import check

UP = torch.arange(12.0).reshape(4, 3)
NORM = torch.tensor([1.0, 2.0, 4.0])
SENT = {"model.layers.0.mlp.up_proj.weight": UP, "model.norm.weight": NORM}


def held(up: torch.Tensor, norm: torch.Tensor) -> Held:
    """What a worker has; two of the engine's tensors are read, none is packed."""
    names = ("model.layers.0.mlp.gate_up_proj.weight", "model.norm.weight")
    readable = fingerprint_tensors(dict(zip(names, (up, norm), strict=True)))
    return Held("", readable, {}, fingerprint_tensors(SENT), {}, True, 2)


def test_divided_tensors_add_up_and_whole_ones_are_on_each_worker() -> None:
    found = compare([held(UP[:2], NORM), replace(held(UP[2:], NORM), expected={})])
    assert (found.sent, found.compared, found.stale) == (2, 2, ())
    assert compare([held(UP, NORM)]).stale == ()


def test_what_one_worker_alone_did_not_take_is_stale() -> None:
    found = compare([held(UP[:2], NORM), held(UP[2:] + 0.01, NORM)])
    assert found.stale == ("model.layers.0.mlp.gate_up_proj.weight",)
    found = compare([held(UP[:2], NORM), held(UP[2:], NORM * 0)])
    assert found.stale == ("model.norm.weight",)


@pytest.mark.parametrize(
    "asked", [{"fixes": ("sampler-mask",)}, {"faults": ("engine-sinks-dropped",)}]
)
def test_what_reaches_into_the_model_needs_it_in_one_process(
    asked: dict[str, tuple[str, ...]],
) -> None:
    rollout = {"args": {"tensor_parallel_size": 2}}
    check(TrainConfig.model_validate({"rollout": rollout}))
    with pytest.raises(InputError, match="in several processes"):
        check(TrainConfig.model_validate({"rollout": rollout, **asked}))
