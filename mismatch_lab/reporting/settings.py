"""The engine's settings as the report shows them: value, who chose it, whether it is a matter."""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.engines.engine_config import args_of, source_of
from mismatch_lab.engines.settings import CONCERNS, HOOKABLE, ON_CPU
from mismatch_lab.schema import Manifest, OptionValue, RunSpec

NOT_A_SETTING = ("seed_of_each_request", "cached_prefix_tokens", "dtype", "trust_remote_code",
                 "disable_log_stats")  # fmt: skip
"""Options of a capture that are facts of the run, or are shown elsewhere."""

TYPED, BY_ITSELF = "--engine-arg", "the engine's own default"
ON_THIS_MACHINE = "mismatch-lab, on a CPU"


@dataclass(frozen=True)
class Setting:
    """One setting of the engine."""

    name: str
    value: OptionValue
    chosen_by: str
    why: str
    """What it has to do with the trainer's log-probs; empty where nothing is known."""
    matters: bool
    """Its value is one under which the two sides are known to differ."""


def engine_settings(spec: RunSpec, manifests: dict[str, Manifest]) -> list[Setting]:
    """What the engine as configured ran with: what someone chose, and what is known to matter.

    Empty for engines whose settings do not resolve by themselves (transformers', the fake one).
    """
    decode = manifests.get("decode")
    if decode is None or spec.infer.engine not in HOOKABLE:
        return []
    in_force = {n: v for n, v in decode.options.items() if n not in NOT_A_SETTING}
    on_cpu = not spec.provenance.accelerators
    found = []
    for name, value in in_force.items():
        chosen_by = _chosen_by(name, spec, on_cpu)
        concern = CONCERNS.get(name)
        if chosen_by == BY_ITSELF and concern is None and not name.startswith("inherited."):
            continue
        found.append(_setting(name, value, chosen_by))
    return sorted(found, key=lambda s: (not s.matters, s.chosen_by == BY_ITSELF, s.name))


def _setting(name: str, value: OptionValue, chosen_by: str) -> Setting:
    if name.startswith("inherited."):
        why = "taken from the checkpoint or the engine's configuration where a request sets none"
        return Setting(name, value, "the generation config", why, True)
    concern = CONCERNS.get(name)
    if concern is None:
        return Setting(name, value, chosen_by, "", False)
    # Of a value that may be anything, one that the user chose is worth a look.
    own = chosen_by != BY_ITSELF and not chosen_by.startswith(ON_THIS_MACHINE)
    matters = value not in concern.unlike if concern.unlike else own
    return Setting(name, value, chosen_by, concern.why, matters)


def _chosen_by(name: str, spec: RunSpec, on_cpu: bool) -> str:
    file, given = spec.engine_config, spec.infer.args
    if file is not None and name in given and args_of(file).get(name) == given[name]:
        return f"{file.file}: {source_of(file, name)}"
    if name in given:
        return TYPED
    if on_cpu and name in ON_CPU:
        return f"{ON_THIS_MACHINE}: {ON_CPU[name][1]}"
    return BY_ITSELF
