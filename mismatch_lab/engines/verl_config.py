"""What verl's own configuration says of the actor: `actor_rollout_ref.model` and `.actor`.

Each entry is handed on to verl, left out for a reason that is kept, or an error. Which entries
there are is what verl's packaged YAML holds, so that a newer verl's are known as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError, choices

ROOT = "actor_rollout_ref"
PARTS = ("model", "actor")
"""Of ROOT; the others are the engine's (`--engine-config`) and the reference policy's."""

HANDED_ON = (
    "model.override_config", "model.external_lib", "model.use_remove_padding", "model.use_liger",
    "model.use_fused_kernels", "model.fused_kernel_options", "actor.strategy",
    "actor.ulysses_sequence_parallel_size", "actor.pad_to_length",
    "actor.fsdp_config.model_dtype", "actor.fsdp_config.mixed_precision",
    "actor.fsdp_config.full_determinism", "actor.fsdp_config.seed",
    "actor.fsdp_config.pad_to_length", "actor.fsdp_config.pad_to_length_bucket",
    "actor.fsdp_config.qat",
)  # fmt: skip
"""Entries, with all below them, that log-probs depend on."""

OPEN = ("model.override_config", "actor.fsdp_config.mixed_precision")
"""Entries below which any name may stand: verl's YAML lists none, and users add them with `+`."""

_MODEL = "the model is the one that is diagnosed"
_ADAPTER = "no adapter is loaded: MODEL holds the policy"
_MEMORY = "memory and scheduling alone"
_UNREAD = "verl's FSDP engine does not read it"
_BATCH = "sequences at once are those of micro_batch"
LEFT = {
    **dict.fromkeys(("model.path", "model.hf_config_path", "model.tokenizer_path", "model.use_shm",
                     "model.custom_chat_template", "model.mtp"), _MODEL),
    "model.trust_remote_code": "asked for by --trust-remote-code alone",
    **dict.fromkeys(("model.lora", "model.lora_rank", "model.lora_alpha", "model.target_modules",
                     "model.exclude_modules", "model.lora_adapter_path"), _ADAPTER),
    "model.enable_gradient_checkpointing": "of passes with gradients; log-probs are without",
    "model.enable_activation_offload": _MEMORY,
    "model.tiled_mlp": _UNREAD,
    "actor.use_prefix_grouper": _UNREAD,
    "actor.use_fused_kernels": "model.use_fused_kernels stands over it",
    "actor.use_remove_padding": "model.use_remove_padding stands over it",
    "actor.fsdp_config.dtype": f"{_UNREAD}: mixed_precision.param_dtype is what counts",
    "actor.fsdp_config.strategy": "actor.strategy stands over it",
    "actor.fsdp_config.use_torch_compile": "of the entropy, which is not computed",
    "actor.fsdp_config": _MEMORY,
    **dict.fromkeys(("actor.use_dynamic_bsz", "actor.ppo_micro_batch_size_per_gpu",
                     "actor.ppo_micro_batch_size", "actor.ppo_max_token_len_per_gpu"), _BATCH),
    "actor": "of the update, not of log-probs",
}  # fmt: skip
"""Entries, with all below them, that are known and left out -> why; the longest name counts."""

STRATEGIES = ("fsdp", "fsdp2")


@dataclass(frozen=True)
class ActorConfig:
    """A configuration's part of the actor, in verl's dotted names below `actor_rollout_ref`."""

    handed_on: dict[str, Any] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    """Entry -> why it is left out."""

    def nested(self) -> dict[str, Any]:
        """What is handed on, as verl's YAML has it."""
        found: dict[str, Any] = {}
        for name, value in self.handed_on.items():
            *path, last = name.split(".")
            place = found
            for part in path:
                if not isinstance(place.get(part), dict):  # null in the file, an entry of it typed
                    place[part] = {}
                place = place[part]
            place[last] = value
        return found


def read_actor(file: Path) -> dict[str, Any]:
    """Entries of the actor in a file, by dotted name; what the file says of other parts is not.

    Raises:
        InputError: it cannot be read, says nothing of the actor, or leaves a value open.
    """
    import yaml

    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no YAML of verl's: {error}.") from error
    root = held.get(ROOT) if isinstance(held, dict) else None
    parts = {name: root.get(name) for name in PARTS} if isinstance(root, dict) else {}
    given = {name: part for name, part in parts.items() if part is not None}
    if not given:
        raise InputError(
            f"{file} says nothing of verl's actor.",
            f"It stands in {ROOT}.model and {ROOT}.actor.",
        )
    found = dict(_flat(given))
    for name, value in found.items():
        if isinstance(value, str) and "${" in value and _place(name, HANDED_ON):
            raise InputError(
                f"{file}: {ROOT}.{name} is {value!r}, which only Hydra can resolve.",
                "Write the resolved configuration first: verl's command with --cfg job --resolve.",
            )
    return found


def sorted_out(given: Mapping[str, Any], known: Mapping[str, Any]) -> ActorConfig:
    """Entries by what becomes of them.

    Args:
        given: dotted name, as typed -> value.
        known: `actor_rollout_ref` of verl's packaged YAML.

    Raises:
        InputError: verl has no such entry, or it asks for what cannot be had in one process.
    """
    names = {name for name, _ in _flat({part: known.get(part, {}) for part in PARTS})}
    names |= {name for entry in tuple(names) for name in _above(entry)}
    found = ActorConfig()
    for typed, value in given.items():
        name = plain(typed)
        if name not in names and not _place(name, OPEN):
            raise InputError(f"verl's actor has no {typed!r}.", choices(name, names))
        if _place(name, HANDED_ON):
            found.handed_on[name] = value
        else:
            found.left[name] = LEFT[_place(name, LEFT) or name.partition(".")[0]]
    _check(found.handed_on)
    return found


def plain(typed: str) -> str:
    """An entry's name as verl's users type it, without Hydra's `+` and `actor_rollout_ref.`."""
    return typed.lstrip("+").removeprefix(f"{ROOT}.")


def _check(handed_on: Mapping[str, Any]) -> None:
    strategy = handed_on.get("actor.strategy", STRATEGIES[0])
    if strategy not in STRATEGIES:
        raise InputError(
            f"actor.strategy {strategy!r}: of verl's actors its FSDP engine is run.",
            f"Choose {' or '.join(STRATEGIES)}; --trainer FILE.py:FUNC takes any code.",
        )
    ulysses = handed_on.get("actor.ulysses_sequence_parallel_size", 1)
    if ulysses != 1:
        raise InputError(
            f"actor.ulysses_sequence_parallel_size {ulysses}: verl runs in one process here.",
            "Leave it out, or set it to 1.",
        )


def _flat(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value that is no mapping, or an empty one."""
    for key, value in part.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _place(name: str, entries: Mapping[str, Any] | tuple[str, ...]) -> str | None:
    """The longest of `entries` that is the name or stands above it."""
    return next((one for one in (name, *_above(name)) if one in entries), None)
