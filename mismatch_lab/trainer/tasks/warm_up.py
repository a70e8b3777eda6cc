"""Teach the embedded model the form of a task it cannot do untaught, so that RL has a start:
`python -m mismatch_lab.trainer.tasks.warm_up retool --out DIR`, two minutes on one CPU core.

Supervised, on the conversations of `lessons.py` about training problems. The result is made where
it is needed and never shipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini import problems as mini
from mismatch_lab.mini.data import Row, pad
from mismatch_lab.mini.save import save_checkpoint
from mismatch_lab.trainer.tasks.lessons import COURSES
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

if TYPE_CHECKING:
    from transformers import GptOssForCausalLM

RECIPE = 1
"""Part of the folder's name: a cached checkpoint of another recipe is not taken."""
STEPS = 200
BATCH_ROWS = 16
POOL_BATCHES = 8
PEAK_LR = 1e-3
LOG_EVERY = 20


def rows(task: str, tokeniser: TaskTokeniser, seed: int) -> Iterator[Row]:
    """Endless conversations about training problems."""
    rng, course = Random(f"warm-up:{seed}"), COURSES[task]
    for problem in mini.stream(seed, "train", course.levels):
        yield course.lesson(problem, rng, tokeniser)


def fit(model: GptOssForCausalLM, source: Iterator[Row], *, seed: int, steps: int) -> None:
    """Train in place, in float32 on one thread, the learning rate falling to zero."""
    import torch

    from mismatch_lab.mini.train import BALANCE_WEIGHT, GRAD_NORM_MAX, build_optimizer, step_loss

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, and with it the result, depends on it
    model.train()
    optimizer = build_optimizer(model)
    started = time.monotonic()
    for step, group in zip(range(steps), batches(source, seed), strict=False):
        for settings in optimizer.param_groups:
            settings["lr"] = PEAK_LR * (1 - step / steps)
        cross_entropy, balance = step_loss(model, pad(group))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(cross_entropy + BALANCE_WEIGHT * balance)
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_NORM_MAX)
        optimizer.step()
        if (step + 1) % LOG_EVERY == 0:
            taken = f"{time.monotonic() - started:.0f} s"
            loss = cross_entropy.item()
            print(f"warm-up: step {step + 1} of {steps}  {taken}  {loss:.3f} nats", flush=True)
    torch.set_num_threads(threads)


def batches(source: Iterator[Row], seed: int) -> Iterator[list[Row]]:
    """Endless groups of rows of similar length, in random order."""
    rng = Random(f"warm-up batches:{seed}")
    while True:
        pool = sorted(islice(source, BATCH_ROWS * POOL_BATCHES), key=lambda r: len(r.token_ids))
        groups = [pool[i : i + BATCH_ROWS] for i in range(0, len(pool), BATCH_ROWS)]
        rng.shuffle(groups)
        yield from groups


def warm_checkpoint(task: str, cache: Path, *, seed: int = 0, steps: int = STEPS) -> Path:
    """The folder of the embedded model, warmed up for a task; trained first if not in `cache`.

    The folder appears whole or not at all. On several ranks, call it on one.

    Raises:
        InputError: the task needs no warm-up, or there is no such task.
    """
    if task not in COURSES:
        raise InputError(
            f"There is no warm-up for {task!r}.", f"There is one for: {', '.join(COURSES)}."
        )
    folder = cache / f"mini-gpt-oss-{task}-v{RECIPE}-seed{seed}-steps{steps}"
    if not folder.is_dir():
        from mismatch_lab.mini.evaluate import load

        model, tokenizer = load(checkpoint_dir())
        source = rows(task, TaskTokeniser(str(checkpoint_dir())), seed)
        fit(model, source, seed=seed, steps=steps)
        partial = cache / f".{folder.name}.{os.getpid()}"
        partial.mkdir(parents=True)
        save_checkpoint(model, tokenizer, partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster, with the same result
            shutil.rmtree(partial)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the warm-up."""
    parser = argparse.ArgumentParser(
        prog="python -m mismatch_lab.trainer.tasks.warm_up", description=__doc__
    )
    parser.add_argument("task", choices=sorted(COURSES))
    parser.add_argument("--out", type=Path, required=True, help="folder the checkpoint goes into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    print(warm_checkpoint(args.task, args.out, seed=args.seed, steps=args.steps))


if __name__ == "__main__":
    main()
