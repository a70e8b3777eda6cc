"""Probes and prompt sets: the TOML and JSONL files under `probes/`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mismatch_lab.errors import InputError, nearest
from mismatch_lab.resources import probes_dir
from mismatch_lab.schema import Probe, Prompt, Strict

Model = TypeVar("Model", bound=Strict)


def probe_names() -> list[str]:
    """Names of the probes that ship, the default first."""
    names = sorted(path.stem for path in probes_dir().glob("*.toml"))
    return sorted(names, key=lambda name: name != "quick")


def load_probe(name_or_path: str) -> Probe:
    """A probe by its name, or from a TOML file.

    Raises:
        InputError: no such probe, not TOML, or a field is wrong.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in probe_names():
            raise InputError(
                f"Unknown probe {name_or_path!r}.",
                f"{nearest(name_or_path, probe_names())}Available: {', '.join(probe_names())}; "
                "or name a .toml file.",
            )
        path = probes_dir() / f"{name_or_path}.toml"
    return read_toml(path, Probe, "Probe file")


def read_toml(path: Path, model: type[Model], what: str) -> Model:
    """A model from a TOML file.

    Raises:
        InputError: no such file, not TOML, or a field is wrong; begins with `what`.
    """
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist.")
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {path} is not TOML: {error}.") from error
    except ValidationError as error:
        raise InputError(f"{what} {path}: {first_problem(error)}.") from error


def load_prompts(path: Path, count: int | None = None) -> list[Prompt]:
    """Prompts of a JSONL file; lines may lack an id, their line number is it then.

    Raises:
        InputError: no such file, a line that is no prompt, none at all, or fewer than `count`.
    """
    if not path.is_file():
        raise InputError(f"Prompt file {path} does not exist.")
    prompts: list[Prompt] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or (count is not None and len(prompts) == count):
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise InputError(f"{path}, line {number}: not a JSON object.")
            _check_keys(entry, f"{path}, line {number}")
            prompts.append(Prompt.model_validate({"id": f"line-{number}", **entry}))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}.") from error
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {first_problem(error)}.") from error
    if not prompts:
        raise InputError(f"{path} holds no prompts.")
    if count is not None and len(prompts) < count:
        raise InputError(f"{path} holds {len(prompts)} prompts, the probe wants {count}.")
    return prompts


def _check_keys(entry: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key that no prompt has."""
    known = set(Prompt.model_fields)
    for key in sorted(set(entry) - known):
        raise InputError(
            f"{where}: a prompt has no {key!r}.",
            f"{nearest(key, known)}A line holds one of messages, text, token_ids; and, if you "
            "like, id, origin, follow_ups.",
        )


def probe_prompts(probe: Probe) -> list[Prompt]:
    """The prompts of a probe, without what is put before them (`shots`)."""
    return load_prompts(probes_dir() / "prompts" / probe.prompts.set, probe.prompts.count)


def shots(probe: Probe) -> list[str]:
    """Questions to put before a probe's prompts: a long context of ordinary text."""
    count, more = probe.prompts.count, probe.prompts.shots
    every = load_prompts(probes_dir() / "prompts" / probe.prompts.set, count + more)[count:]
    return [m["content"] for shot in every for m in shot.messages or [] if m["role"] == "user"]


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}.") from error


def first_problem(error: ValidationError) -> str:
    """Where a file is wrong first, and what was found there."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "entry"
    return f"{where}: {first['msg']} (got {str(first.get('input'))[:60]!r})"
