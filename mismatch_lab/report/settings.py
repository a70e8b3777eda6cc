"""Both sides' settings as the report shows them: value, who chose it, whether it is a matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mismatch_lab.engines.engine_config import args_of, source_of
from mismatch_lab.engines.options import OPTIONS, TorchOptions
from mismatch_lab.engines.settings import CONCERNS, HOOKABLE, OF_TRAINER, ON_CPU, Concern
from mismatch_lab.schema import Manifest, OptionValue, RunSpec

NOT_A_SETTING = ("seed_of_each_request", "cached_prefix_tokens", "dtype", "trust_remote_code",
                 "disable_log_stats", "sampled_logprobs", "platform", "skip_tokenizer_init",
                 "skip_server_warmup", "log_level", "grammar_backend")  # fmt: skip
"""Options of a capture that are facts of the run, or are shown elsewhere."""

TYPED, BY_ITSELF = "--engine-arg", "the engine's own default"
ON_THIS_MACHINE = "mismatch-lab, on a CPU"
TYPED_FOR_TRAINER, TRAINERS_OWN = "--trainer-arg", "mismatch-lab's or transformers' default"


@dataclass(frozen=True)
class Setting:
    """One setting of a side."""

    name: str
    value: OptionValue
    chosen_by: str
    why: str
    """What it has to do with the other side's log-probs; empty where nothing is known."""
    matters: bool
    """Its value is one under which the two sides are known to differ."""


def engine_settings(spec: RunSpec, manifests: dict[str, Manifest]) -> list[Setting]:
    """What the engine as configured ran with: what someone chose, and what is known to matter.

    Empty for engines whose settings do not resolve by themselves (transformers', the fake one).
    """
    decode = manifests.get("decode")
    if decode is None or spec.infer.engine not in HOOKABLE:
        return []
    found = []
    for name, value in decode.options.items():
        if name in NOT_A_SETTING:
            continue
        if name.startswith("inherited."):
            found.append(_inherited(name, value))
            continue
        chosen_by = _chosen_by(name, spec)
        if chosen_by != BY_ITSELF or name in CONCERNS:
            # Of a value that may be anything, one that the user chose is worth a look.
            users = chosen_by != BY_ITSELF and not chosen_by.startswith(ON_THIS_MACHINE)
            found.append(_setting(name, value, chosen_by, CONCERNS, users))
    return _in_order(found, BY_ITSELF)


def trainer_settings(spec: RunSpec, manifests: dict[str, Manifest]) -> list[Setting]:
    """What the trainer ran with: what the user chose, and what is known to matter.

    Empty for trainers other than transformers', which have no such settings.
    """
    train, kind = manifests.get("train"), OPTIONS.get(spec.train.engine)
    if train is None or kind is None or not issubclass(kind, TorchOptions):
        return []
    found = [
        _setting(
            name,
            value,
            TYPED_FOR_TRAINER if name in spec.train.args else TRAINERS_OWN,
            OF_TRAINER,
            name in spec.train.args,
        )
        for name, value in train.options.items()
        if name in spec.train.args or name in OF_TRAINER
    ]
    return _in_order(found, TRAINERS_OWN)


def _in_order(found: list[Setting], by_itself: str) -> list[Setting]:
    """What matters first, then what somebody chose."""
    return sorted(found, key=lambda s: (not s.matters, s.chosen_by == by_itself, s.name))


def _inherited(name: str, value: OptionValue) -> Setting:
    why = "taken from the checkpoint or the engine's configuration where a request sets none"
    return Setting(name, value, "the generation config", why, True)


def _setting(
    name: str, value: OptionValue, chosen_by: str, concerns: Mapping[str, Concern], users: bool
) -> Setting:
    concern = concerns.get(name)
    if concern is None:
        return Setting(name, value, chosen_by, "", False)
    matters = value not in concern.unlike if concern.unlike else users
    return Setting(name, value, chosen_by, concern.why, matters)


def _chosen_by(name: str, spec: RunSpec) -> str:
    file, given = spec.engine_config, spec.infer.args
    if file is not None and name in given and args_of(file).get(name) == given[name]:
        return f"{file.file}: {source_of(file, name)}"
    if name in given:
        return TYPED
    of_machine = ON_CPU[spec.infer.engine] if not spec.provenance.accelerators else {}
    if name in of_machine:
        return f"{ON_THIS_MACHINE}: {of_machine[name][1]}"
    return BY_ITSELF
