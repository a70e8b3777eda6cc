"""`--engine-config FILE`: the engine's settings from the file that configures it where it runs.

Read are vLLM's and SGLang's own files (`--config`), and the rollout part of those of verl, TRL,
prime-rl and slime. Every option of that part is mapped, said to be no matter here, or an error: a
setting that is silently left out is the difference that nobody finds. What a framework sets by
itself, whatever its file says, is in `FRAMEWORKS` with the version it was read from.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mismatch_lab.engines.framework_options import (
    FRAMEWORKS,
    GENERATION,
    GENERATION_ARGUMENT,
    OF_TRAINING,
    PREFERRED,
    SAMPLING,
    SERVER,
    SGLANGS_NAMES,
)
from mismatch_lab.errors import InputError, nearest
from mismatch_lab.schema import EngineConfig, LeftOption, MappedOption, OptionValue

LARGEST_BYTES = 4 << 20
"""A longer file is no configuration; parsing one could take all memory."""

NEUTRAL = {"top_k": (-1, 0), "repetition_penalty": (1,)}
"""Values of `GENERATION` that change nothing; of the others that is 0."""


def dtype_of(config: EngineConfig) -> str | None:
    """The engine's dtype, where the file says one."""
    found = _of(config, ["dtype"]).get("dtype", "auto")
    return None if found == "auto" else str(found)


def sampling_of(config: EngineConfig) -> dict[str, OptionValue]:
    """Temperature and the like, where the file says them."""
    return _of(config, SAMPLING)


def args_of(config: EngineConfig) -> dict[str, OptionValue]:
    """Engine arguments, as `--engine-arg` gives them."""
    other = {*SAMPLING, *GENERATION, "dtype"}
    args = {m.target: m.value for m in config.mapped if m.target not in other}
    asked = _of(config, GENERATION)
    generation = {n: v for n, v in asked.items() if v not in NEUTRAL.get(n, (0,))}
    if generation:
        args[_argument_of_generation(config)] = json.dumps(generation)
    return args


def _argument_of_generation(config: EngineConfig) -> str:
    return PREFERRED if config.engine == "sglang" else GENERATION_ARGUMENT


def _of(config: EngineConfig, targets: Iterable[str]) -> dict[str, OptionValue]:
    wanted = set(targets)
    return {m.target: m.value for m in config.mapped if m.target in wanted}


def source_of(config: EngineConfig, argument: str) -> str:
    """Where in the file an engine argument of `args_of` comes from, for people."""
    of_generation = argument == _argument_of_generation(config)
    targets = (*GENERATION, argument) if of_generation else (argument,)
    return ", ".join(one.source for one in config.mapped if one.target in targets)


_SGLANG_ONLY = ("model_path", "tp_size", "mem_fraction_static", "disable_radix_cache",
                "context_length", "chunked_prefill_size", "sampling_backend",
                "disable_cuda_graph", "max_running_requests")  # fmt: skip


def read_engine_config(path: Path, engine: str | None = None) -> EngineConfig:
    """Read a file that configures an engine.

    Args:
        path: YAML, TOML or JSON; of slime the script that starts it.
        engine: the engine asked for, where one was.

    Raises:
        InputError: no such file, not a configuration, an unknown option, or one without a value.
    """
    text = _text(path)
    if path.suffix in (".sh", ".bash") or "--sglang-" in text:
        return _of_slime(path, text)
    entries = _parse(path, text)
    kind, part, prefix = _rollout_part(path, entries)
    if kind == "flat":
        config = _own_file(path, engine or "vllm", part)
    elif kind == "sglang":
        config = _own_file(path, kind, part)
    else:
        chosen = str(part.get("name") or "vllm") if kind == "verl" else "vllm"
        config = _read(path, kind, part, prefix, chosen)
    if engine is not None and engine != config.engine:
        raise InputError(
            f"{path} configures {config.engine}, not {engine}.", f"--engine {config.engine}"
        )
    return config


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{path} is larger than {LARGEST_BYTES >> 20} MiB: no configuration.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{path} cannot be read: {why}.", "Name a file: YAML, TOML.") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        entries = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be parsed: {first}.") from error
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{path} holds no options.", "It is a mapping of names to values.")
    return {str(name).replace("-", "_"): value for name, value in entries.items()}


def _rollout_part(path: Path, entries: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """(whose file it is, its rollout part, where in the file that is)."""
    if "actor_rollout_ref" in entries or isinstance(entries.get("rollout"), dict):
        whole = entries.get("actor_rollout_ref", entries)
        part = whole.get("rollout") if isinstance(whole, dict) else None
        prefix = "actor_rollout_ref.rollout" if "actor_rollout_ref" in entries else "rollout"
        return "verl", _mapping(path, prefix, part), prefix
    if any(name.startswith("vllm_") for name in entries) or "use_vllm" in entries:
        rollout = FRAMEWORKS["trl"].options
        part = {n: v for n, v in entries.items() if n.startswith("vllm_") or n in rollout}
        more = entries.get("generation_kwargs")
        return "trl", part | (_mapping(path, "generation_kwargs", more) if more else {}), ""
    of_vllm = _within(entries, "inference", "vllm") or _within(entries, "vllm")
    if of_vllm:
        prefix = "inference.vllm" if "inference" in entries else "vllm"
        sampling = _within(entries, "orchestrator", "train", "sampling")
        drawn = {name: sampling[name] for name in ("temperature",) if name in sampling}
        return "prime-rl", _mapping(path, prefix, of_vllm) | drawn, prefix
    if any(isinstance(value, dict) and name in ("model", "parallel", "server")
           for name, value in entries.items()):  # fmt: skip
        raise InputError(
            f"{path} is no file that is understood.",
            "prime-rl's has a table [inference.vllm] (older versions are not read); verl's "
            "actor_rollout_ref.rollout; TRL's vllm_…; vLLM's and SGLang's their own options.",
        )
    return ("sglang" if any(n in entries for n in _SGLANG_ONLY) else "flat"), entries, ""


def _within(entries: dict[str, Any], *names: str) -> dict[str, Any]:
    """A table inside tables; empty where there is none."""
    found: Any = entries
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _mapping(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} is not a mapping of options.")
    return {str(key).replace("-", "_"): entry for key, entry in value.items()}


def _own_file(path: Path, engine: str, entries: dict[str, Any]) -> EngineConfig:
    """The engine's own file: names are its arguments, which the engine's options are checked by."""
    mapped, left = [], []
    for name, value in entries.items():
        if name in SERVER:
            left.append(LeftOption(source=name, why=SERVER[name]))
        elif value is not None:
            target = SGLANGS_NAMES.get(name, name) if engine == "sglang" else name
            mapped.append(_mapped(path, name, target, value))
    return EngineConfig(file=str(path), kind=engine, engine=engine, mapped=mapped, left=left)


def _read(path: Path, kind: str, part: dict[str, Any], prefix: str, engine: str) -> EngineConfig:
    framework = FRAMEWORKS.get(kind if engine == "vllm" else f"{kind}, {engine}")
    if framework is None:
        raise InputError(f"{path}: {kind}'s rollouts with {engine} are not read, nor run here.")
    always = framework.always
    mapped = [_mapped(path, f"{kind} itself", name, value) for name, value in always.items()]
    left: list[LeftOption] = []
    for name, value in part.items():
        source = f"{prefix}.{name}" if prefix else name
        target = framework.options.get(name)
        if name in framework.left:
            left.append(LeftOption(source=source, why=framework.left[name]))
        elif value is None:
            continue
        elif name == framework.passes_on:
            given = _mapping(path, source, value).get(engine) or {}
            options = _mapping(path, f"{source}.{engine}", given)
            mapped += [
                _mapped(path, f"{source}.{engine}.{own}", own, what)
                for own, what in options.items()
                if what is not None
            ]
        elif target is not None or framework.others_are_the_engines:
            mapped.append(_mapped(path, source, target or name, value))
        else:
            known = [*framework.options, *framework.left]
            raise InputError(
                f"{path}: {source} is not a known option of {kind}'s rollouts.",
                f"{nearest(name, known)}Read as of {framework.version}; leave it out, or give what "
                "it means with --engine-arg.",
            )
    last = {one.target: one for one in mapped}  # what stands later stands over it
    return EngineConfig(
        file=str(path), kind=kind, engine=engine, mapped=list(last.values()), left=left
    )


def _mapped(path: Path, source: str, target: str, value: Any) -> MappedOption:
    return MappedOption(source=source, target=target, value=_scalar(path, source, value))


def _scalar(path: Path, name: str, value: Any) -> OptionValue:
    if isinstance(value, str) and "${" in value:
        raise InputError(
            f"{path}: {name} is {value!r}, which only its framework can resolve.",
            "Write the resolved configuration first (Hydra: --cfg job --resolve).",
        )
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    raise InputError(f"{path}: {name} is {value!r}, which is no option's value.")


ROUTER = "of the router in front of the engines"

_FLAG = re.compile(r"--(sglang-|rollout-)[a-z0-9-]+")


def _of_slime(path: Path, text: str) -> EngineConfig:
    """The flags of a script that starts slime; nothing of it is run."""
    framework = FRAMEWORKS["slime"]
    mapped, left = [], []
    for name, value in _flags(path, text):
        own = name.removeprefix("sglang_")
        if name in framework.left or own.startswith("router_"):
            why = framework.left.get(name, ROUTER)
            left.append(LeftOption(source=f"--{name}", why=why))
        elif name == "sglang_config":
            raise InputError(
                f"{path}: --sglang-config names a file of groups of engines, which is not read.",
                "Leave it out of the file, and give what the group has with --engine-arg.",
            )
        elif own != name:
            mapped.append(_mapped(path, f"--{name}", SGLANGS_NAMES.get(own, own), value))
        elif name in framework.options:
            mapped.append(_mapped(path, f"--{name}", framework.options[name], value))
        else:
            left.append(LeftOption(source=f"--{name}", why=OF_TRAINING))
    if not mapped:
        raise InputError(f"{path} sets nothing of the engine.", "slime's flags are --sglang-….")
    return EngineConfig(file=str(path), kind="slime", engine="sglang", mapped=mapped, left=left)


def _flags(path: Path, text: str) -> Iterable[tuple[str, OptionValue]]:
    try:
        lexer = shlex.shlex(text, posix=True, punctuation_chars="()")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError as error:
        raise InputError(f"{path} cannot be parsed as a shell script: {error}.") from error
    for at, word in enumerate(words):
        flag, equals, given = word.partition("=")
        if not _FLAG.fullmatch(flag):
            continue
        values = [given] if equals else list(_values(words[at + 1 :]))
        if any("$" in value for value in values):
            said = " ".join(values)
            raise InputError(f"{path}: {flag} is {said!r}, a variable of the script.",
                             "Write its value in the file.")  # fmt: skip
        typed = [_typed(value) for value in values]
        value = json.dumps(typed) if len(typed) > 1 else (typed or [True])[0]
        yield flag[2:].replace("-", "_"), value


def _values(words: list[str]) -> Iterable[str]:
    """What a flag is given: nothing, one word, or several numbers."""
    for at, word in enumerate(words):
        if not re.match(r"[\w./${\[]|-\d" if at == 0 else r"[\d$]", word):
            return
        yield word


def _typed(value: str) -> OptionValue:
    parsed = yaml.safe_load(value)
    return parsed if isinstance(parsed, (bool, int, float, str)) else value
