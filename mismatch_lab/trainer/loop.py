"""The trainer, top to bottom: rollout → score → advantages → loss → step → sync → measure.

Everything random follows from (seed, step): a run that was killed resumes as if it had not been.
Ranks other than 0 have no engine; they get each batch from rank 0 and share in all forwards.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.measures.aggregate import EDGE
from mismatch_lab.trainer import checkpoint, ranks
from mismatch_lab.trainer.batch import Batch, lay_out, stack
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.experience import Experience, Sampler, batch_metrics
from mismatch_lab.trainer.grpo import group_advantages, k3_penalty, masked_mean
from mismatch_lab.trainer.measure import TWO_PASS, edge_measures, own_routing
from mismatch_lab.trainer.metrics import Clock, Metrics
from mismatch_lab.trainer.objective import Objective
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.policy_model import Scores
from mismatch_lab.trainer.sync import Sync
from mismatch_lab.trainer.watcher import QUIET, Watcher

Values = dict[str, Any]


def train(config: TrainConfig, out: Path, watcher: Watcher = QUIET) -> None:
    """Run to `config.steps`, or go on from the last checkpoint in `out`; rank 0's watcher is told.

    Raises:
        InputError: an unknown fault or fix, or one that the engine or the model cannot have.
        EngineError: the engine died.
    """
    plan = plan_run(config)
    config = plan.config
    policy = Policy(config, resolve_model_path(config.model), plan.change_model)
    reference = (
        Policy(config, resolve_model_path(config.model), plan.change_model)
        if config.loss.kl_weight > 0
        else None
    )
    state = checkpoint.load(out, policy) or {"step": 0}
    watcher.begin(state["step"])
    with Sampler(plan, out) as sampler:
        sync = Sync(config, policy, sampler.engines, out, plan.lag_steps, checkpoint.behind(out))
        sync.begin(resumed=state["step"] > 0)
        metrics = None
        if dist.get_rank() == 0:
            metrics = Metrics(out, state["step"], config.tensorboard)

        def report_step(step: int, values: Values) -> None:
            if metrics is not None:
                metrics.write(step, values)
                watcher.step(step, values)

        for step in range(state["step"], config.steps):
            clock = Clock(watcher.phase)
            # Dropout, if the model has any; answers are drawn in turns from 1 on.
            torch.manual_seed(seed_of(config.seed, step, 0, dist.get_rank()))
            values: Values = {}

            if step == 0 or (config.eval_every and step % config.eval_every == 0):
                with clock.phase("eval"):
                    values |= sampler.evaluate()

            with clock.phase("rollout"):
                experience: Experience = ranks.share(sampler.sample(step))
                advantages = group_advantages(
                    experience.rewards, config.rollout.group, config.loss.advantage
                )
                batch = stack(experience.episodes, advantages)
                values |= batch_metrics(experience)

            with clock.phase("score"):
                scored = policy.score(batch)
                logp_ref = reference.score(batch).logp if reference else None
                values |= own_routing(policy, batch)

            with clock.phase("update"):
                objective = Objective.of(config, batch, scored.logp, logp_ref)
                values |= update(policy, batch, objective, step)

            with clock.phase("sync"):
                values |= sync.send(batch, scored.logp).values()

            with clock.phase("measure"):
                values |= measured(batch, scored, objective)

            report_step(step, values | clock.values())
            made = step + 1
            if config.checkpoint_every and (
                made == config.steps or made % config.checkpoint_every == 0
            ):
                watcher.phase("checkpoint")
                checkpoint.save(out, policy, {"step": made}, sync.behind)

        watcher.phase("eval")
        report_step(config.steps, sampler.evaluate())


def measured(batch: Batch, scored: Scores, objective: Objective) -> Values:
    """The step's mismatch, whatever the loss was told of it."""
    mask = batch.mask
    values = edge_measures(EDGE, batch.logp_infer, scored.logp, mask)
    values["entropy"] = float(masked_mean(scored.entropy, mask))
    values["tokens_dropped"] = int((mask * ~torch.isfinite(batch.logp_infer)).sum())
    if objective.logp_ref is not None:
        penalty = k3_penalty(scored.logp, objective.logp_ref)
        values["kl_ref"] = float(masked_mean(penalty, mask))
    if objective.correction is not None:
        values |= objective.correction.summary(objective.usable)
    return values


def update(policy: Policy, batch: Batch, objective: Objective, step: int) -> Values:
    """Gradients of all micro-batches, one optimizer step; as often as the run's updates say.

    Loss, clip fraction and gradient norm are the last update's.
    """
    rows = objective.rows_that_count(batch)
    loss = clipped = norm = float("nan")
    skipped = 0
    seen: dict[int, Tensor] = {}
    for number in range(objective.config.optim.updates):
        parts = []
        for chosen, micro in policy.gradient_batches(batch, rows):
            logp = policy.forward(micro).logp
            share, clip_share = objective.loss(logp, micro, chosen, number)
            policy.backward(share)
            parts.append(torch.stack([share.detach(), clip_share]).cpu())
            if number == 0:
                # A rank whose micro-batch counts for nothing has one row and no chosen ones.
                seen |= zip(chosen, logp.detach().cpu(), strict=False)
        if not parts:  # every group agreed: there is nothing to learn from
            break
        loss, clipped = ranks.total(torch.stack(parts).sum(dim=0).tolist())
        norm = policy.step(step)
        skipped += not math.isfinite(norm)
    first_pass = lay_out(ranks.gather(seen), batch.ids.shape, float("nan"))
    mask = batch.mask * torch.isfinite(first_pass)
    return {
        "loss": loss,
        "clip_fraction": clipped,
        "grad_norm": norm,
        "updates_skipped": skipped,
        "rows_used": len(rows),
        # The loss's own view of "on-policy": 0 unless two passes of one trainer disagree.
        **edge_measures(TWO_PASS, objective.logp_scored, first_pass, mask),
    }
