"""Layers computed again in backward give the same gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import Optim, TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.run import check


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


def gradients(again: bool) -> tuple[dict[str, Tensor], int]:
    """And how often a layer was called."""
    config = TrainConfig(optim=Optim(checkpoint_activations=again))
    policy = Policy(config, resolve_model_path(EMBEDDED))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    policy.bare.model.layers[0].self_attn.register_forward_hook(count)
    ids = torch.randint(5, 500, (2, 24), generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(ids.shape)
    batch = Batch(ids, torch.tensor([24, 16]), nothing, nothing, torch.ones(2))
    for _, micro in policy.gradient_batches(batch, [0, 1]):
        policy.backward(policy.forward(micro).logp[:, :16].sum())
    found = {
        name: parameter.grad.full_tensor()  # type: ignore[union-attr]
        for name, parameter in policy.model.named_parameters()
    }
    return found, calls


def test_gradients_are_the_same() -> None:
    (plain, once), (again, twice) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def test_not_with_routing_replay() -> None:
    optim = Optim(checkpoint_activations=True)
    with pytest.raises(InputError, match="computed again"):
        check(TrainConfig(optim=optim, fixes=("routing-replay",)))
