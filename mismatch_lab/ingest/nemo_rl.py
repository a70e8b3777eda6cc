"""NeMo-RL: `train_data_step{N}.jsonl`, a line a sample, written unless NeMo-Gym's responses are.

Its writer goes through the batch one by one, so that every value is a list of one. Rows are padded
on the right to the longest of the batch; `input_lengths` says where they end. Index t is token t.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.files import Names, Source, json_lines
from mismatch_lab.ingest.rows import DumpRow, Reading, build_row

NAMES = Names(r"train_data_step(?P<step>\d+)\.jsonl", "train_data_step*.jsonl")

ZEROS = "rows whose prev_logprobs are all 0.0 (not computed, as with force_on_policy_ratio)"

Numbers = list[list[float | None]]


class Line(msgspec.Struct):
    """What is read of a line; each value is a list of one."""

    token_ids: list[list[int]] | None = None
    token_loss_mask: list[list[float | bool]] | None = None
    generation_logprobs: Numbers | None = None
    prev_logprobs: Numbers | None = None
    input_lengths: list[int] | None = None
    sample_loss_mask: list[float | bool] | None = None


NEEDED = (
    "token_ids",
    "token_loss_mask",
    "generation_logprobs",
    "prev_logprobs",
    "input_lengths",
    "sample_loss_mask",
)


def read(source: Source, reading: Reading) -> Iterator[DumpRow]:
    """Rows of a file.

    Raises:
        InputError: a line that is none of NeMo-RL's, or whose arrays do not fit together.
    """
    for where, line in json_lines(source, Line, reading):
        yield _row(where, line, reading)


def _row(where: str, line: Line, reading: Reading) -> DumpRow:
    held = {name: _only(where, name, getattr(line, name)) for name in NEEDED}
    length = int(held["input_lengths"])
    padded = len(held["token_ids"])
    if not 0 < length <= padded:
        raise InputError(f"{where}: input_lengths is {length}, and there are {padded} token_ids.")
    parts = {}
    for name in NEEDED[:4]:
        if len(held[name]) != padded:
            raise InputError(f"{where}: {name} has {len(held[name])} values for {padded} tokens.")
        parts[name] = held[name][:length]
    generated = parts["token_loss_mask"]
    row = build_row(
        where,
        parts["token_ids"],
        generated,
        generated if held["sample_loss_mask"] else [0] * length,
        {name: parts[name] for name in ("generation_logprobs", "prev_logprobs")},
    )
    train = row.logp_train[row.generated]
    if len(train) and not train.any() and row.logp_infer[row.generated].any():
        reading.counts[ZEROS] += 1
        row.logp_train[:] = np.nan
    return row


def _only(where: str, name: str, values: Any) -> Any:
    if values is None:
        raise InputError(
            f"{where} has no {name}.",
            "NeMo-RL before 0.3, and its TransferQueue path, leave it out: the dump is no record.",
        )
    if len(values) != 1:
        raise InputError(f"{where}: {name} holds {len(values)} samples, not one.")
    return values[0]
