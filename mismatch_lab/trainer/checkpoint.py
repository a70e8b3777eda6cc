"""Checkpoints that are there whole or not at all, and runs that go on as if nothing had happened.

Everything random follows from (seed, step), the order of the problems too, and metrics of steps
after the checkpoint are written anew: so weights, optimizer, the loss's scale and the number of the
step are enough; and, under a planted lag, the older weights that the engines are yet to get.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from mismatch_lab.errors import InputError
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.policy import Policy

FOLDER = "checkpoints"
STATE = "state.json"
SCALER = "scaler"
"""Key of the state: the scale of float16's loss; empty in other types."""
BEHIND = "behind-*.safetensors"
KEPT = 2
"""The last ones; an older one is removed when a new one is whole."""


def save(
    out: Path, policy: Policy, state: dict[str, Any], behind: Sequence[dict[str, Tensor]] = ()
) -> None:
    """Write a checkpoint. All ranks call it.

    Args:
        out: the run's folder.
        policy: whose weights, optimizer and scale of the loss are kept.
        state: `state["step"]` is the number of steps made.
        behind: see `Sync.behind`; rank 0's are kept.
    """
    final = out / FOLDER / f"step-{state['step']:06d}"
    partial = final.with_name(f".{final.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    model, optimizer = get_state_dict(policy.model, policy.optimizer)
    state_dict_saver.save({"model": model, "optimizer": optimizer}, checkpoint_id=partial)
    if dist.get_rank() == 0:
        for index, weights in enumerate(behind):
            save_file(weights, partial / BEHIND.replace("*", f"{index:03d}"))
        _finish(partial, final, state | {SCALER: policy.scaler.state_dict()})
        for old in _folders(out)[:-KEPT]:
            shutil.rmtree(old)
    dist.barrier()


def _finish(partial: Path, final: Path, state: dict[str, Any]) -> None:
    """From here on the checkpoint is there."""
    (partial / STATE).write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def load(out: Path, policy: Policy) -> dict[str, Any] | None:
    """Bring the policy to the last checkpoint and return its state; None where there is none.

    Raises:
        InputError: the checkpoint is damaged, or of another model.
    """
    folder = ranks.share(next(reversed(_folders(out)), None))
    if folder is None:
        return None
    try:
        _restore(folder, policy)
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        policy.scaler.load_state_dict(state.pop(SCALER))
    except (
        CheckpointException, OSError, ValueError, KeyError, EOFError, UnpicklingError
    ) as error:  # fmt: skip
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(
            f"The checkpoint {folder} cannot be read: {why}",
            "Remove that folder to go on from the one before it.",
        ) from error
    return state


def _restore(folder: Path, policy: Policy) -> None:
    """A parameter that never had a gradient has no state of the optimizer, and gets none."""
    model, optimizer = get_state_dict(policy.model, policy.optimizer)
    saved = FileSystemReader(folder).read_metadata().state_dict_metadata
    states: dict[str, Any] = optimizer["state"]  # type: ignore[assignment]
    untouched = {name for name in states if f"optimizer.state.{name}.step" not in saved}
    blank = {name: states.pop(name) for name in untouched}
    held: dict[str, Any] = {"model": model, "optimizer": optimizer}
    state_dict_loader.load(held, checkpoint_id=folder)
    held["optimizer"]["state"] |= blank
    set_state_dict(
        policy.model,
        policy.optimizer,
        model_state_dict=held["model"],
        optim_state_dict=held["optimizer"],
    )
    for name, parameter in policy.model.named_parameters():
        if name in untouched:
            policy.optimizer.state.pop(parameter, None)


def behind(out: Path) -> list[dict[str, Tensor]]:
    """What the last checkpoint was given as `behind`, on rank 0."""
    folder = next(reversed(_folders(out)), None)
    files = sorted(folder.glob(BEHIND)) if folder and dist.get_rank() == 0 else []
    return [load_file(file) for file in files]


def _folders(out: Path) -> list[Path]:
    return sorted((out / FOLDER).glob("step-*"))
