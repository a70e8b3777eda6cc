"""Changes that break nothing, for the controls: none may be called a bug."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mismatch_lab.errors import NotApplicableError

if TYPE_CHECKING:
    from torch import nn

POSITION_SHIFT = 37
"""Positions; anything does, since rotary attention sees differences of positions only."""
SHARPER = 2.0
FINAL_NORM = "model.norm.weight"


def shift_positions(model: nn.Module) -> None:
    """A plugin: every position id a constant higher, which rotary embeddings cannot see."""

    def shifted(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": kwargs["position_ids"] + POSITION_SHIFT}
        return (args[0], args[1] + POSITION_SHIFT, *args[2:]), kwargs

    rotary = [m for name, m in model.named_modules() if name.endswith("rotary_emb")]
    if not rotary:
        raise NotApplicableError("The model has no rotary embeddings.")
    for module in rotary:
        module.register_forward_pre_hook(shifted, with_kwargs=True)


def sharpen(folder: Path) -> None:
    """Edit a checkpoint so that all logits double: a policy as it is late in training.

    The weights of the last norm are doubled, which no rounding touches.

    Raises:
        NotApplicableError: doubled norm weights would not double the logits.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = [path for path in folder.glob("*.safetensors") if FINAL_NORM in load_file(path)]
    if not files or config.get("final_logit_softcapping") or "gemma" in config["model_type"]:
        raise NotApplicableError("Its logits are not proportional to the weights of a last norm.")
    tensors = load_file(files[0])
    tensors[FINAL_NORM] = tensors[FINAL_NORM] * SHARPER
    save_file(tensors, files[0], metadata={"format": "pt"})


def copy_checkpoint(source: str, folder: Path) -> None:
    """A checkpoint's files, without anything else that lies there."""
    folder.mkdir(parents=True)
    for path in Path(source).iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)
