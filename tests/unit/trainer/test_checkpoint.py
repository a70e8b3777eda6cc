"""Checkpoints of a policy: whole, exact, and refused where they are damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.trainer import checkpoint, ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.policy import Policy

SINK = "model.model.layers.0.self_attn.sinks"


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ranks.leave()


def policy_of(*faults: str) -> Policy:
    plan = plan_run(TrainConfig(faults=faults))
    return Policy(plan.config, resolve_model_path(EMBEDDED), plan.change_model)


def step(policy: Policy) -> None:
    ids = torch.tensor([[5, 17, 40, 9, 33, 21]])
    nothing = torch.zeros(ids.shape)
    batch = Batch(ids, torch.tensor([6]), nothing, nothing, torch.zeros(1))
    for _, micro in policy.gradient_batches(batch, [0]):
        policy.backward(-policy.forward(micro).logp.sum())
    policy.step(0)


@pytest.mark.parametrize("faults", [(), ("sinks-dropped",)], ids=["healthy", "sinks-dropped"])
def test_a_resumed_policy_steps_as_the_first(tmp_path: Path, faults: tuple[str, ...]) -> None:
    first = policy_of(*faults)
    step(first)
    checkpoint.save(tmp_path, first, {"step": 1})
    again = policy_of(*faults)
    assert checkpoint.load(tmp_path, again) == {"step": 1}
    # A kernel without sinks gives them no gradient, so that AdamW knows nothing of them.
    sink = dict(again.model.named_parameters())[SINK]
    assert (sink in again.optimizer.state) == (not faults)
    for policy in (first, again):
        step(policy)
    weights = again.weights()
    for name, value in first.weights().items():
        assert torch.equal(weights[name], value), name


def test_the_scale_of_a_float16_loss_goes_on_where_it_was(tmp_path: Path) -> None:
    config = TrainConfig(dtype="float16")
    first = Policy(config, resolve_model_path(EMBEDDED))
    step(first)
    scale = {"scale": 256.0, "_growth_tracker": 7}
    first.scaler.load_state_dict(first.scaler.state_dict() | scale)
    checkpoint.save(tmp_path, first, {"step": 1})
    again = Policy(config, resolve_model_path(EMBEDDED))
    assert checkpoint.load(tmp_path, again) == {"step": 1}
    assert again.scaler.state_dict() == first.scaler.state_dict()
    assert again.scaler.get_scale() == 256.0


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    policy = policy_of()
    step(policy)
    checkpoint.save(tmp_path, policy, {"step": 1})
    data = next((tmp_path / checkpoint.FOLDER / "step-000001").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(InputError, match="step-000001 cannot be read"):
        checkpoint.load(tmp_path, policy)
    (data.parent / ".metadata").write_bytes(b"")
    with pytest.raises(InputError, match="step-000001 cannot be read"):
        checkpoint.load(tmp_path, policy)
