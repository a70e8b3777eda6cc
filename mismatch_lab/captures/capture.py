"""What one side recorded of a set of token sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.draws import Draws
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.captures.packing import check_packs
from mismatch_lab.errors import CaptureError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

UNKNOWN_VERSION = -1


@dataclass(frozen=True)
class Rows:
    """Ragged token sequences, flattened: T tokens in R rows.

    Row r is `token_ids[row_offsets[r]:row_offsets[r + 1]]`; its first `prompt_lengths[r]` tokens
    are the prompt. `sampled` marks the tokens that the engine drew; in multi-turn rows the tokens
    of later user turns are not.
    """

    token_ids: NDArray[np.int32]
    """[T]"""
    row_offsets: Int64
    """[R + 1]"""
    prompt_lengths: NDArray[np.int32]
    """[R]"""
    sampled: NDArray[np.bool_]
    """[T]"""

    @classmethod
    def build(
        cls, sequences: list[list[int]], prompt_lengths: list[int], sampled: list[list[bool]]
    ) -> Rows:
        """Flatten ragged lists."""
        offsets = np.cumsum([0, *(len(s) for s in sequences)]).astype(np.int64)
        flat = [token for sequence in sequences for token in sequence]
        mask = [value for row in sampled for value in row]
        rows = cls(
            np.array(flat, np.int32),
            offsets,
            np.array(prompt_lengths, np.int32),
            np.array(mask, bool),
        )
        rows.validate("rows")
        return rows

    @property
    def n_rows(self) -> int:
        return len(self.prompt_lengths)

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    def spans(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of each row in the flattened arrays."""
        for row in range(self.n_rows):
            yield int(self.row_offsets[row]), int(self.row_offsets[row + 1])

    def row_ids(self) -> Int64:
        """[T] the row each token belongs to."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int64), np.diff(self.row_offsets))

    def turn_starts(self) -> Int64:
        """[T] where the answer that a sampled token belongs to begins; a token that was not sampled
        is its own.
        """
        own = np.arange(self.n_tokens)
        begins = ~self.sampled
        begins[1:] |= ~self.sampled[:-1]
        begins[self.row_offsets[:-1]] = True
        return np.maximum.accumulate(np.where(begins, own, 0))

    def validate(self, where: str) -> None:
        """Raise CaptureError unless the arrays fit together."""
        if len(self.row_offsets) != self.n_rows + 1 or self.n_rows == 0:
            raise CaptureError(
                f"{where}: {len(self.row_offsets)} row offsets for {self.n_rows} rows."
            )
        lengths = np.diff(self.row_offsets)
        if self.row_offsets[0] != 0 or self.row_offsets[-1] != self.n_tokens or lengths.min() < 1:
            raise CaptureError(f"{where}: row offsets do not cover the {self.n_tokens} tokens.")
        if (self.prompt_lengths < 1).any() or (self.prompt_lengths > lengths).any():
            raise CaptureError(f"{where}: a prompt is empty or longer than its row.")
        if len(self.sampled) != self.n_tokens:
            raise CaptureError(
                f"{where}: {len(self.sampled)} sampled marks for {self.n_tokens} tokens."
            )


@dataclass(frozen=True)
class Capture:
    """Rows with what one side says of them.

    A value at flat index t speaks of token t: `logp[t]` is the log-prob of `token_ids[t]` given
    the tokens of its row before it, and `probe_logp[p]` is the whole distribution it was drawn
    from (so `probe_logp[p, token_ids[probe_positions[p]]] == logp[probe_positions[p]]`). Hidden
    states at probe p are those that produced this distribution: the forward position one token
    earlier. Routing at t is the choice made where token t is the input.
    """

    rows: Rows
    logp: Float32
    """[T] in nats; NaN where there is none."""
    probe_positions: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P] flat token indices, ascending, never the first token of a row."""
    probe_logp: Float32 | None = None
    """[P, V]"""
    router_topk: NDArray[np.int16] | None = None
    """[T, L, K], best expert first; -1 where nothing was recorded."""
    router_logits: Float32 | None = None
    """[T, L, E]"""
    hidden: dict[str, Float32] = field(default_factory=dict)
    """tap name -> [P, D], NaN outside tap rows; `NAME` is an output, `NAME:in` an input."""
    weights: dict[str, Fingerprint] = field(default_factory=dict)
    """By tensor name."""
    token_text: dict[int, str] = field(default_factory=dict)
    """text of each token id that occurs, for people."""
    probe_lse: Float32 | None = None
    """[P] log-sum-exp that `probe_logp` was normalised by: `probe_logp + probe_lse` are logits over
    the temperature, as the head gave them."""
    tap_order: tuple[str, ...] = ()
    """Names of modules in the order in which their outputs are there."""
    not_recorded: dict[str, str] = field(default_factory=dict)
    """What was asked for and could not be recorded -> why: names of taps, or `routing`."""
    draws: Draws | None = None
    """How likely the sampled tokens are under other ways of sampling."""
    versions: Int64 | None = None
    """[T] version of the weights that gave each log-prob; `UNKNOWN_VERSION` where nobody says."""
    loss_mask: NDArray[np.bool_] | None = None
    """[T] tokens that count in the loss, of those that were sampled."""
    packs: Int64 | None = None
    """[R, 2] packed row of each sequence and its place there; see `captures.packing`. None where
    it is not known how the side packed, or whether."""

    def to_pandas(self) -> Any:
        """A DataFrame with a line a token: row, position, token_id, text, sampled, logp (nats).

        Raises:
            ImportError: pandas is not installed (`pip install 'mismatch-lab[frames]'`).
        """
        import pandas as pd

        rows = self.rows
        row = rows.row_ids()
        return pd.DataFrame(
            {
                "row": row,
                "position": np.arange(rows.n_tokens) - rows.row_offsets[row],
                "token_id": rows.token_ids,
                "text": [self.token_text.get(int(token)) for token in rows.token_ids],
                "sampled": rows.sampled,
                "logp": self.logp,
            }
        )

    def validate(self, where: str) -> None:
        """Raise CaptureError unless the arrays fit together."""
        self.rows.validate(where)
        tokens, probes = self.rows.n_tokens, len(self.probe_positions)
        self._expect(where, "logp", self.logp.shape, (tokens,))
        for name, array in (
            ("router_topk", self.router_topk),
            ("router_logits", self.router_logits),
            ("versions", self.versions),
            ("loss_mask", self.loss_mask),
        ):
            if array is not None:
                self._expect(where, name, array.shape[:1], (tokens,))
        if self.probe_logp is not None:
            self._expect(where, "probe_logp", self.probe_logp.shape[:1], (probes,))
        if self.probe_lse is not None:
            self._expect(where, "probe_lse", self.probe_lse.shape, (probes,))
        for name, array in self.hidden.items():
            self._expect(where, f"hidden/{name}", array.shape[:1], (probes,))
        if self.draws is not None:
            self.draws.validate(where, tokens, self.rows.n_rows)
        if self.packs is not None:
            self._expect(where, "packs", self.packs.shape, (self.rows.n_rows, 2))
            check_packs(self.packs, where)
        firsts = np.isin(self.probe_positions, self.rows.row_offsets[:-1])
        outside = (self.probe_positions < 0) | (self.probe_positions >= tokens)
        if firsts.any() or outside.any():
            raise CaptureError(f"{where}: a probe position is a row's first token or outside.")

    @staticmethod
    def _expect(where: str, name: str, got: tuple[int, ...], want: tuple[int, ...]) -> None:
        if got != want:
            raise CaptureError(f"{where}: {name} has leading shape {got}, expected {want}.")


def first_rows(capture: Capture, count: int) -> Capture:
    """Tokens, sampled marks and log-probs of the first rows; the rest of a capture is left out."""
    rows = capture.rows
    count = min(count, rows.n_rows)
    stop = int(rows.row_offsets[count])
    kept = Rows(
        rows.token_ids[:stop],
        rows.row_offsets[: count + 1],
        rows.prompt_lengths[:count],
        rows.sampled[:stop],
    )
    return Capture(kept, capture.logp[:stop])


def chosen_rows(capture: Capture, chosen: Int64) -> Capture:
    """Some rows, in the order given and at least one, with all that was recorded of their tokens.

    How they were drawn (`draws`) is left out: it is of all rows together.
    """
    rows = capture.rows
    spans = [(int(rows.row_offsets[r]), int(rows.row_offsets[r + 1])) for r in chosen]
    flat = np.concatenate([np.arange(start, stop) for start, stop in spans])
    offsets = np.cumsum([0, *(stop - start for start, stop in spans)]).astype(np.int64)
    kept = Rows(rows.token_ids[flat], offsets, rows.prompt_lengths[chosen], rows.sampled[flat])
    probes, at = capture.probe_positions, np.zeros(0, np.int64)
    probed = np.isin(flat, probes)
    if len(probes):
        at = np.searchsorted(probes, flat[probed])

    def of_tokens(array: NDArray[Any] | None) -> Any:
        return None if array is None else array[flat]

    def of_probes(array: NDArray[Any] | None) -> Any:
        return None if array is None else array[at]

    return replace(
        capture,
        rows=kept,
        logp=capture.logp[flat],
        probe_positions=np.flatnonzero(probed).astype(np.int64),
        probe_logp=of_probes(capture.probe_logp),
        probe_lse=of_probes(capture.probe_lse),
        router_topk=of_tokens(capture.router_topk),
        router_logits=of_tokens(capture.router_logits),
        hidden={name: array[at] for name, array in capture.hidden.items()},
        draws=None,
        versions=of_tokens(capture.versions),
        loss_mask=of_tokens(capture.loss_mask),
        packs=None if capture.packs is None else capture.packs[chosen],
    )
