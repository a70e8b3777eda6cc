"""What can be known of a checkpoint before a model is built from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir

EMBEDDED = "mini-gpt-oss"
"""Name of the model that ships with the package."""


def resolve_model_path(model: str) -> str:
    """Where a model's files are: the embedded one's folder, else what was given.

    Run files hold the name, so that they mean the same on another machine.
    """
    return str(checkpoint_dir()) if model == EMBEDDED else model


def check_model_path(model: str) -> None:
    """Raise InputError for a folder that is no checkpoint, before anything heavy is imported."""
    path = Path(model)
    looks_local = model.startswith((".", "/", "~")) or os.sep * 2 in model or path.exists()
    if not looks_local:
        return
    if not path.is_dir():
        raise InputError(
            f"Model {model} does not exist.",
            "Name a checkpoint folder (config.json and *.safetensors) or a hub name.",
        )
    if not (path / "config.json").is_file():
        raise InputError(f"Model folder {model} has no config.json.", "Is it a checkpoint folder?")


def checkpoint_state(model: str) -> dict[str, tuple[int, int]]:
    """Size and time of each file of a checkpoint folder; empty for a hub name."""
    path = Path(resolve_model_path(model))
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else []
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def load_config(model: str, trust_remote_code: bool) -> Any:
    """The transformers config of a checkpoint.

    Raises:
        InputError: there is none, or its architecture is unknown.
    """
    check_model_path(model)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:
        lines = str(error).strip().splitlines()
        detail = lines[0] if lines else type(error).__name__
        raise InputError(
            f"Model {model} cannot be read: {detail}",
            "Unsupported architecture, damaged config.json, or a hub that cannot be reached.",
        ) from error


def read_config_json(model: str) -> dict[str, Any]:
    """The config of a checkpoint as it is written; transformers is asked only for hub names.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    file = Path(resolve_model_path(model)) / "config.json"
    if not file.is_file():
        found: dict[str, Any] = load_config(
            resolve_model_path(model), trust_remote_code=False
        ).to_dict()
        return found
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object.", "Is it a checkpoint folder?")
    return found


def read_config(model: str, whole: bool = False) -> dict[str, Any]:
    """config.json of a checkpoint folder, its language model's part unless the whole is wanted;
    empty for a hub name.

    Raises:
        InputError: it cannot be read.
    """
    if not (Path(resolve_model_path(model)) / "config.json").is_file():
        return {}
    config = read_config_json(model)
    text = config.get("text_config")
    return text if isinstance(text, dict) and not whole else config


def context_length(config: Any) -> int:
    """Positions the model was made for."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or 1 << 30)


def check_lengths(lengths: list[int], new_tokens: int, limit: int, where: str) -> None:
    """Raise InputError for the first prompt that does not fit into the context."""
    for index, length in enumerate(lengths):
        if length + new_tokens > limit:
            raise InputError(
                f"Prompt {index} has {length} tokens; with {new_tokens} new ones it exceeds the "
                f"context of {limit} tokens of {where}.",
                "Use shorter prompts or a smaller --max-tokens.",
            )
