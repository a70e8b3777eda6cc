"""What the workers of an engine hold, against the checkpoint that they were to take."""

from dataclasses import replace

import pytest
import torch

from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors
from mismatch_lab.errors import InputError
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.engine_weights import HEAD, Held, compare
from mismatch_lab.trainer.run import check

UP = torch.arange(1.0, 13.0).reshape(4, 3)
NORM = torch.tensor([1.0, 2.0, 4.0])
SENT = {"model.layers.0.mlp.up_proj.weight": UP, "model.norm.weight": NORM}


def held(up: torch.Tensor, norm: torch.Tensor, **copies: torch.Tensor) -> Held:
    """What a worker has, and what kernels read beside it."""
    own = dict(zip(SENT, (up, norm), strict=True))
    beside = {name.replace("__", "."): copy for name, copy in copies.items()}
    return Held(
        "",
        fingerprint_tensors(own.items()),
        fingerprint_tensors(beside.items()),
        fingerprint_tensors(SENT.items()),
    )


def test_divided_tensors_add_up_and_whole_ones_are_on_each_worker() -> None:
    found = compare([held(UP[:2], NORM), replace(held(UP[2:], NORM), expected={})])
    assert (found.sent, found.compared, found.stale, found.uncompared) == (2, 2, (), ())
    assert found.confirmed
    assert compare([held(UP, NORM)]).confirmed


def test_what_one_worker_alone_did_not_take_is_stale() -> None:
    found = compare([held(UP[:2], NORM), held(UP[2:] * (1 + 2**-23), NORM)])
    assert found.stale == ("model.layers.0.mlp.up_proj.weight",)
    found = compare([held(UP[:2], NORM), held(UP[2:], NORM * 2)])
    assert found.stale == ("model.norm.weight",)


def test_what_the_engine_does_not_show_is_named_and_confirms_nothing() -> None:
    found = compare([replace(held(UP, NORM), parameters={})])
    assert (found.sent, found.compared) == (2, 0)
    assert found.uncompared == tuple(SENT)
    assert not found.confirmed
    only_norm = {"model.norm.weight": held(UP, NORM).parameters["model.norm.weight"]}
    found = compare([replace(held(UP, NORM), parameters=only_norm)])
    assert (found.compared, found.uncompared) == (1, ("model.layers.0.mlp.up_proj.weight",))
    assert not found.confirmed


def test_a_copy_that_kernels_read_must_be_what_was_sent_too() -> None:
    assert compare([held(UP, NORM, model__norm__weight=NORM)]).confirmed
    # A copy in float32 of what is held in bfloat16 is the same.
    rounded = held(UP, NORM.bfloat16(), model__norm__weight=NORM.bfloat16().float())
    assert compare([rounded]).confirmed
    found = compare([held(UP, NORM, model__norm__weight=NORM.flip(0))])
    assert found.stale == ("model.norm.weight",)
    assert found.compared == 2


def test_a_head_is_asked_for_where_the_engine_has_one() -> None:
    own = held(UP, NORM)
    expected = {**own.expected, HEAD: fingerprint_tensors([(HEAD, UP)])[HEAD]}
    # An embedding that is the head is compared as the embedding.
    assert compare([replace(own, expected=expected)]).sent == 2
    stale_head = {**own.parameters, HEAD: fingerprint_tensors([(HEAD, 2 * UP)])[HEAD]}
    found = compare([replace(own, parameters=stale_head, expected=expected)])
    assert (found.sent, found.stale) == (3, (HEAD,))


def test_what_the_engine_refused_is_its_own_word() -> None:
    found = compare([held(UP, NORM), Held("KeyError: 'w'", {}, {}, {})])
    assert (found.error, found.confirmed) == ("KeyError: 'w'", False)


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
