"""Faults and fixes by name, turned into what they change of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mismatch_lab.checkpoints.config import read_config_json
from mismatch_lab.errors import InputError
from mismatch_lab.faults import load_fault
from mismatch_lab.faults.base import SEVERITIES, Fault, Severity
from mismatch_lab.remedies import load_fixes
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.loss_ratio import check_ratio

if TYPE_CHECKING:
    from torch import nn

LAG_STEPS: dict[Severity, int] = {"plain": 8, "medium": 4, "slight": 1}
"""Updates that the engine stays behind under `stale-weights`."""

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Plan:
    """A run with its faults and fixes in it."""

    config: TrainConfig
    trainer_faults: tuple[tuple[Fault, Severity], ...] = ()
    engine_fault: tuple[str, str] | None = None
    sampling: dict[str, float] = field(default_factory=dict)
    """What the engine samples with in place of the run's own values; the trainer is not told."""
    lag_steps: int = 0

    def change_model(self, model: nn.Module) -> None:
        """Faults first, then the fixes that mend them."""
        for fault, severity in self.trainer_faults:
            assert fault.plant is not None
            fault.plant(model, fault.severities[severity])
        load_fixes(self.config.fixes).change_model(model)


def plan_run(config: TrainConfig) -> Plan:
    """What the names of faults and fixes mean for a run.

    Raises:
        InputError: an unknown name or severity, a fault that only captures can show, or fixes and
            settings that contradict each other (`loss_ratio.py`).
    """
    fixes = load_fixes(config.fixes)
    check_ratio(config)
    trainer: list[tuple[Fault, Severity]] = []
    engine: tuple[str, str] | None = None
    sampling: dict[str, float] = {}
    lag = 0
    for text in config.faults:
        fault, severity = parse_fault(text)
        if fault.id == "stale-weights":
            lag = LAG_STEPS[severity]
        elif fault.id == "stale-prefix-cache":
            config = _cached(config)
        elif fault.kind == "options":
            config, drawn = _with_options(config, fault, severity)
            sampling |= drawn
        elif fault.kind == "plugin" and fault.side == "train":
            trainer.append((fault, severity))
        elif fault.kind == "plugin" and engine is None:
            engine = (fault.id, severity)
        else:
            raise InputError(
                f"Fault {fault.id} cannot be planted in a training run"
                + (" beside another of the engine's." if fault.kind == "plugin" else "."),
                "It is a defect of recorded files; plant it with `mismatch-lab scorecard`."
                if fault.kind != "plugin"
                else "Plant one at a time.",
            )
    return Plan(fixes.configured(config), tuple(trainer), engine, sampling, lag)


def check_faults(config: TrainConfig) -> None:
    """Raise InputError for a fault in a part that the model does not have."""
    if not config.faults:
        return
    model = read_config_json(config.model)
    kind = str(model.get("model_type"))
    for fault, _ in map(parse_fault, config.faults):
        if not fault.applies(kind, model):
            raise InputError(
                f"Fault {fault.id} cannot be planted in {config.model}: a model of type {kind} "
                "has no such part.",
                "`mismatch-lab list faults` says what each breaks.",
            )


def parse_fault(text: str) -> tuple[Fault, Severity]:
    """NAME or NAME:SEVERITY; without one it is plain."""
    name, _, severity = text.partition(":")
    if severity and severity not in SEVERITIES:
        raise InputError(f"Fault {text!r}: no severity {severity!r}.", ", ".join(SEVERITIES))
    return load_fault(name), severity or "plain"


def _with_options(
    config: TrainConfig, fault: Fault, severity: Severity
) -> tuple[TrainConfig, dict[str, float]]:
    assert fault.options is not None
    asked = fault.options(fault.severities[severity])
    if asked.trainer_args or asked.checkpoint_edit or set(asked.sampling) - set(SAMPLING):
        raise InputError(f"Fault {fault.id} cannot be planted in a training run.")
    args = dict(asked.engine_args)
    space = str(args.pop("logprobs_mode", f"{config.rollout.logprob_space}_logprobs"))
    changed: dict[str, Any] = {
        "args": {**config.rollout.args, **args},
        "logprob_space": space.removesuffix("_logprobs"),
    }
    sampling = dict(asked.sampling)
    if "temperature" in sampling:  # what is wrong is the space, not that the trainer knows it
        changed["temperature"] = sampling.pop("temperature")
    rollout = config.rollout.model_copy(update=changed)
    return config.model_copy(update={"rollout": rollout}), sampling


def _cached(config: TrainConfig) -> TrainConfig:
    """Prompts are cached and the cache outlives the weights that made it."""
    args = {**config.rollout.args, "enable_prefix_caching": True}
    rollout = config.rollout.model_copy(update={"args": args, "flush_cache": False})
    return config.model_copy(update={"rollout": rollout})
