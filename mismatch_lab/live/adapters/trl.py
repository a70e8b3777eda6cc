"""TRL: a monitor beside `GRPOTrainer`, by one line.

    from mismatch_lab.live.adapters.trl import watch

    watch(trainer, MismatchMonitor("mismatch", model=checkpoint, dtype="bfloat16"))

Wraps `_generate_and_score_completions` of the instance, which returns what was generated with both
sides' log-probs before it is shuffled and split. The engine's are there with `use_vllm`, and with a
`rollout_func`; the trainer's wherever TRL computes them itself, or with `score=True`.
"""

from __future__ import annotations

from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.live.adapters import say_untested
from mismatch_lab.live.monitor import MismatchMonitor
from mismatch_lab.live.steps import Observed

ENGINE, TRAINER = "sampling_per_token_logps", "old_per_token_logps"
"""Keys of the log-probs of both sides in what TRL returns."""


def watch(trainer: Any, monitor: MismatchMonitor, *, score: bool = False) -> None:
    """Have every batch of completions of a GRPOTrainer observed; evaluation is left out.

    Args:
        trainer: TRL's.
        monitor: of this rank.
        score: where TRL does not compute the trainer's log-probs before the update (without vLLM,
            where generation and updates are aligned), have its own function do so: a forward more.
    """
    say_untested("trl")
    original = trainer._generate_and_score_completions

    def scored(inputs: Any) -> Any:
        output = original(inputs)
        if trainer.model.training:
            monitor.observe_made(lambda: observed(trainer, output, score))
        return output

    trainer._generate_and_score_completions = scored


def observed(trainer: Any, output: dict[str, Any], score: bool) -> Observed:
    """A batch of completions as TRL returns it.

    Args:
        trainer: that generated it.
        output: with prompt_ids [B, P], completion_ids [B, T] and log-probs [B, T].
        score: see `watch`.

    Raises:
        InputError: a side's log-probs are not there.
    """
    import torch

    if output.get(ENGINE) is None:
        raise InputError(
            "TRL's trainer has no log-probs of what was sampled.",
            "They come with use_vllm=True, and from a rollout_func.",
        )
    prompts, completions = output["prompt_ids"], output["completion_ids"]
    before = torch.zeros_like(prompts)
    sampled = output["completion_mask"]
    if output.get("tool_mask") is not None:
        sampled = sampled * output["tool_mask"]
    ids = torch.cat([prompts, completions], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    logp_train = output.get(TRAINER)
    if logp_train is None:
        logp_train = _scored(trainer, ids, attention, completions.shape[1], score)
    step = trainer.state.global_step
    return Observed(
        step=step,
        token_ids=ids,
        mask=torch.cat([before, sampled], dim=1),
        logp_infer=torch.cat([before, output[ENGINE]], dim=1),
        logp_train=torch.cat([before, logp_train], dim=1),
        attention_mask=attention,
        versions=(trainer._last_loaded_step, step) if trainer.use_vllm else (None, None),
        learning_rate=_learning_rate(trainer),
        temperature=trainer.args.temperature,
        top_p=trainer.args.top_p,
    )


def _scored(trainer: Any, ids: Any, attention: Any, length: int, score: bool) -> Any:
    if not score:
        raise InputError(
            "TRL computes no log-probs of the trainer before the update in this configuration.",
            "watch(trainer, monitor, score=True) has it do so, at the cost of a forward.",
        )
    import torch

    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            ids,
            attention,
            length,
            batch_size=trainer.args.per_device_train_batch_size,
        )
    return found[0]


def _learning_rate(trainer: Any) -> float | None:
    """The largest of the groups: 0 says that no weight will change."""
    optimizer = getattr(trainer, "optimizer", None)
    if optimizer is None:
        return None
    return max(float(group["lr"]) for group in optimizer.param_groups)
