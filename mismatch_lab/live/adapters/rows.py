"""Sequences of a framework, each in two parts, as the padded arrays that a monitor takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import InputError
from mismatch_lab.live.background import on_host

Array = NDArray[Any]
FIELDS = ("token_ids", "mask", "logp_infer", "logp_train")


def one_by_one(values: Any) -> list[Array]:
    """The rows of a list of tensors, of a padded or of a nested tensor, on the host.

    Many small tensors are copied from a device at once.
    """
    parts = list(values.unbind()) if hasattr(values, "unbind") else list(values)
    if not parts or not hasattr(parts[0], "detach"):
        return [np.asarray(part) for part in parts]
    import torch

    lengths = [len(part) for part in parts]
    flat = on_host(torch.cat([part.detach().reshape(-1) for part in parts]))
    return np.split(flat, np.cumsum(lengths)[:-1])


def joined(
    prompts: Sequence[Array],
    answers: Sequence[Array],
    mask: Sequence[Array],
    logp_infer: Sequence[Array],
    logp_train: Sequence[Array],
) -> dict[str, Array]:
    """Token ids, mask and both sides' log-probs [R, L], padded on the right, by `Observed`'s names.

    Args:
        prompts: token ids of each row, without padding.
        answers: token ids after them [R][n].
        mask: [R][n], true where the engine sampled.
        logp_infer: [R][n] nats, of the token at the same place.
        logp_train: [R][n] nats.

    Raises:
        InputError: the parts of a row have different lengths.
    """
    parts = {"mask": mask, "logp_infer": logp_infer, "logp_train": logp_train}
    for name, rows in parts.items():
        for row, (given, answer) in enumerate(zip(rows, answers, strict=True)):
            if len(given) != len(answer):
                raise InputError(
                    f"Row {row} has {len(answer)} tokens after the prompt and {len(given)} values "
                    f"of {name}."
                )
    width = max((len(p) + len(a) for p, a in zip(prompts, answers, strict=True)), default=0)
    ids = np.zeros((len(answers), width), np.int64)
    found: dict[str, Array] = {"token_ids": ids, "mask": np.zeros(ids.shape, bool)}
    found |= {name: np.zeros(ids.shape, np.float32) for name in FIELDS[2:]}
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, end = len(prompt), len(prompt) + len(answer)
        ids[row, :start], ids[row, start:end] = prompt, answer
        for name, rows in parts.items():
            found[name][row, start:end] = rows[row]
    return found
