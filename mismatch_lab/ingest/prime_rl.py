"""prime-rl: `token_exports/step_{S}/rank_{R}.jsonl`, a line a packed sequence with a loss token.

Index t is token t. The trainer's log-probs are shifted over the packed row, so that a sequence's
first token carries one of the sequence before it: it is never compared. Context has 0.0 on the
engine's side; what is not finite is null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.files import Names, Source, json_lines
from mismatch_lab.ingest.rows import DumpRow, Pack, Reading, build_row

NAMES = Names(
    r"step_(?P<step>\d+)/rank_\d+\.jsonl", "token_exports/step_*/rank_*.jsonl", stable="STABLE"
)
SCHEMA_VERSION = 1


class Line(msgspec.Struct):
    """What is read of a line."""

    schema_version: int
    token_ids: list[int]
    loss_mask: list[bool]
    inference_logprobs: list[float | None]
    trainer_logprobs: list[float | None]
    rank: int | None = None
    micro_step: int | None = None
    micro_sequence_idx: int | None = None
    """Place in the packed row of this rank's micro-step, sequences without a loss token counted."""


def read(source: Source, reading: Reading) -> Iterator[DumpRow]:
    """Rows of a file.

    Raises:
        InputError: a line that is none of prime-rl's, or whose arrays do not fit together.
    """
    for where, line in json_lines(source, Line, reading):
        if line.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"{where}: schema_version {line.schema_version}; {SCHEMA_VERSION} is known."
            )
        logp = {
            "inference_logprobs": line.inference_logprobs,
            "trainer_logprobs": line.trainer_logprobs,
        }
        row = build_row(where, line.token_ids, line.loss_mask, line.loss_mask, logp)
        yield replace(with_generated(row), pack=_pack(line))


def _pack(line: Line) -> Pack | None:
    if line.rank is None or line.micro_step is None or line.micro_sequence_idx is None:
        return None
    return (line.rank, line.micro_step), line.micro_sequence_idx


def with_generated(row: DumpRow) -> DumpRow:
    """Tokens that the loss leaves out and that the engine has a log-prob of: it drew them.

    Formats that write 0.0 where nothing was drawn say so much; a token left out of the loss that
    is exactly as sure is not told from context.
    """
    drawn = (row.logp_infer != 0) & ~np.isnan(row.logp_infer)
    return replace(row, generated=row.generated | drawn)
