"""Runs of one training, each in a fork of its own: whole, and killed at some moment then resumed.

`python train_and_die.py OUT`: prints one JSON object a line, {"run": name, "metrics": [...]}.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mismatch_lab.trainer import checkpoint, loop
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.metrics import read_metrics
from mismatch_lab.trainer.policy import Policy

STEPS = 4


def config(lag: bool) -> TrainConfig:
    """Small enough for a second a step."""
    settings = {
        "steps": STEPS,
        "eval_every": 2,
        "checkpoint_every": 2,
        "data.n_heldout": 4,
        "rollout.engine": "hf",
        "rollout.prompts": 3,
        "rollout.group": 4,
        "rollout.new_tokens": 40,
        "optim.micro_batch": 5,
        "optim.lr": 1e-3,
        "loss.kl_weight": 0.01,
    }
    if lag:  # the engine is one update behind; the rest is as short as it can be
        settings |= {"steps": 3, "eval_every": 0, "data.n_heldout": 1, "loss.kl_weight": 0.0}
        settings["faults"] = ["stale-weights:slight"]
    return read_config(None, settings)


def die(*_: object) -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, then: Callable[..., None]) -> Callable[..., None]:
    """A hook that does nothing until it is called for the `number`-th time."""
    calls = [0]

    def hook(*args: object) -> None:
        calls[0] += 1
        if calls[0] == number:
            then(*args)

    return hook


def before(owner: type | object, name: str, hook: Callable[..., None]) -> None:
    """Call the hook before each call of a function."""
    original = getattr(owner, name)

    def wrapped(*args: object, **kwargs: object) -> object:
        hook(*args)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def plant(moment: str) -> None:
    """Let the process die at a moment."""
    if moment == "mid-step":  # of the third step gradients are made, and it is not taken
        before(Policy, "step", at_call(3, die))
    elif moment == "mid-checkpoint":  # tensors are written, the folder is not yet renamed
        before(checkpoint, "_finish", at_call(2, die))


def forked(out: Path, moment: str, lag: bool = False) -> None:
    """One run in a fork; returns when it ended."""
    child = os.fork()
    if child == 0:
        try:
            plant(moment)
            loop.train(config(lag), out)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert died == bool(moment), (moment, status)


def main(out: Path) -> None:
    """All runs."""
    torch.set_num_threads(1)
    for moment in ("", "mid-step", "mid-checkpoint"):
        folder = out / (moment or "whole").replace(" ", "-")
        folder.mkdir()
        forked(folder, moment)
        if moment:
            forked(folder, "")
        show(folder.name, folder)
    folder = out / "lag"
    folder.mkdir()
    forked(folder, "", lag=True)
    show("lag", folder)
    shutil.rmtree(folder / "checkpoints" / "step-000003")  # as if killed before it was there
    forked(folder, "", lag=True)
    show("lag-resumed", folder)


def show(run: str, folder: Path) -> None:
    """Print the metrics of a run."""
    print(json.dumps({"run": run, "metrics": read_metrics(folder)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
