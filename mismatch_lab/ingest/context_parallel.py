"""Parts of a sequence that ranks of one context-parallel group wrote, put together.

Miles (`backends/training_utils/cp_utils.py`) cuts a sequence, or in format bshd its padded row,
into 2 N chunks and gives rank r the chunks r and 2 N - 1 - r. A file holds the log-probs of the
response tokens that its rank's logits predict, chunk by chunk; ids and masks are whole in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.arrays import as_array, as_number

CUT = ("rollout_log_probs", "log_probs")
"""Columns of which a rank holds its part."""
KEY = "sample_indices"
PADDED_TO = "max_seq_lens"
DUPLICATE = "rows that another rank's file holds too"


def spans(
    total: int, response: int, rank: int, size: int, padded_to: int | None = None
) -> list[tuple[int, int]]:
    """[start, stop) of the response tokens whose log-probs a rank holds, in the order of its file.

    Args:
        total: tokens of the sequence.
        response: of them, at its end.
        rank: of the context-parallel group.
        size: of the group.
        padded_to: tokens of the padded row, where rows are padded.
    """
    chunk = -(-(total if padded_to is None else padded_to) // (2 * size))
    before = total - response - 1  # the logit that predicts the first response token
    found = []
    for at in (rank, 2 * size - 1 - rank):
        first, last = max(at * chunk, before), min((at + 1) * chunk, total - 1)
        if first < last:
            found.append((first - before, last - before))
    return found


@dataclass
class Group:
    """One sequence, until all its parts are there."""

    sample: dict[str, Any]
    where: str
    parts: dict[int, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """By rank of the group."""


class Parts:
    """Sequences of one step of which parts are held."""

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}
        self._size = 0

    def add(
        self, where: str, held: Mapping[str, Any], sample: Mapping[str, Any], counts: Counter[str]
    ) -> Mapping[str, Any] | None:
        """The whole sample, once its last part is there.

        Args:
            where: for people.
            held: of the file: its place in the group.
            sample: columns of one sequence.
            counts: of what is left out.

        Raises:
            InputError: parts that are not of one sequence, or of other lengths than its layout has.
        """
        rank, self._size = as_number(where, "cp_rank", held), as_number(where, "cp_size", held)
        if not 0 <= rank < self._size:
            raise InputError(f"{where}: rank {rank} of {self._size}.")
        if sample.get(KEY) is None:
            raise InputError(
                f"{where} has no {KEY}: which files hold parts of one sequence is not known."
            )
        group = self._groups.setdefault(as_number(where, KEY, sample), Group(dict(sample), where))
        ours, theirs = (as_array(where, "tokens", s["tokens"]) for s in (group.sample, sample))
        if not np.array_equal(ours, theirs):
            raise InputError(f"{where} has other tokens than {group.where}, of the same {KEY}.")
        if rank in group.parts:
            counts[DUPLICATE] += 1  # of another tensor-parallel rank
            return None
        group.parts[rank] = {name: as_array(where, name, sample[name]) for name in CUT}
        if len(group.parts) < self._size:
            return None
        padded = held.get("qkv_format", "thd") != "thd"
        return group.sample | dict(self._joined(group, padded))

    def _joined(self, group: Group, padded: bool) -> Iterator[tuple[str, NDArray[Any]]]:
        where, sample = group.where, group.sample
        total = len(as_array(where, "tokens", sample["tokens"]))
        response = as_number(where, "response_lengths", sample)
        padded_to = as_number(where, PADDED_TO, sample) if padded else None
        for name in CUT:
            whole = np.full(response, np.nan, np.float32)
            for rank, part in group.parts.items():
                places = spans(total, response, rank, self._size, padded_to)
                at = np.concatenate([np.arange(a, b) for a, b in [*places, (0, 0)]])
                if len(at) != len(part[name]):
                    raise InputError(
                        f"{where}: of {name} rank {rank} of {self._size} holds {len(part[name])} "
                        f"values, and its part of {response} is {len(at)}: laid out otherwise.",
                        "Dump with --context-parallel-size 1.",
                    )
                whole[at.astype(np.int64)] = part[name]
            yield name, whole

    def end(self) -> None:
        """Forget a step.

        Raises:
            InputError: a sequence of which a part is missing.
        """
        groups, self._groups = self._groups, {}
        for group in groups.values():
            missing = [rank for rank in range(self._size) if rank not in group.parts]
            if missing:
                raise InputError(
                    f"{group.where}: parts of ranks {', '.join(map(str, missing))} of "
                    f"{self._size} of a sequence are missing.",
                    "Every rank of a context-parallel group writes a file: copy all of them.",
                )
