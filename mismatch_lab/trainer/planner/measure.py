"""What one update of the real policy needs, to hold the planner against."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.objective import Objective
from mismatch_lab.trainer.planner.device import GIB
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.policy import Policy

MICRO_BATCHES = 2
"""From the second on all gradients are there."""


@dataclass(frozen=True)
class Measured:
    """Peaks of one device; NaN where they cannot be told."""

    load_gib: float
    backward_gib: float
    """Forward and backward of full micro-batches."""
    optimizer_gib: float


def measure(config: TrainConfig, folder: str) -> Measured:
    """Load the checkpoint, make one update to have AdamW's states, and measure a second.

    On CUDA by the allocator. On the CPU by the profiler, which sees every allocation of an update;
    there the peak of loading cannot be told from the host's, and AdamW goes tensor by tensor.
    """
    plan = plan_run(config)
    cuda = torch.cuda.is_available()
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    policy = Policy(plan.config, folder, plan.change_model)
    load = torch.cuda.max_memory_allocated() / GIB if cuda else float("nan")
    batch = full_batch(config)

    def gradients() -> None:
        _gradients(policy, batch)

    gradients()
    policy.step(0)
    policy.model.reshard()  # type: ignore[operator]
    gc.collect()
    peak = _peak_cuda if cuda else _peak_cpu
    backward = peak(gradients) + (0 if cuda else _held(policy))
    optimizer = _peak_cuda(lambda: float(policy.step(0))) / GIB if cuda else float("nan")
    return Measured(load, backward / GIB, optimizer)


def full_batch(config: TrainConfig) -> Batch:
    """Random rows at their full length, enough for two micro-batches."""
    shape = MICRO_BATCHES * config.optim.micro_batch, config.rollout.context_length
    ids = torch.randint(5, 500, shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(shape)
    mask[:, :8] = 0
    lengths = torch.full(shape[:1], shape[1])
    return Batch(ids, lengths, mask, torch.zeros(shape), torch.linspace(-1, 1, shape[0]))


def _gradients(policy: Policy, batch: Batch) -> None:
    objective = Objective.of(policy.config, batch, torch.zeros(batch.ids.shape), None)
    for chosen, micro in policy.gradient_batches(batch, list(range(batch.n_rows))):
        share, _ = objective.loss(policy.forward(micro).logp, micro, chosen, 0)
        policy.backward(share)


def _held(policy: Policy) -> int:
    """Bytes of masters and optimizer."""
    states = [v for state in policy.optimizer.state.values() for v in state.values()]
    tensors = [*policy.model.parameters(), *states]
    return sum(t.numel() * t.element_size() for t in tensors)


def _peak_cuda(work: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _peak_cpu(work: Callable[[], object]) -> int:
    """Beyond what was there before; what is freed of that is not counted."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
