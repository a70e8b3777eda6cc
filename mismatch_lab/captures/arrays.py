"""Two lists of token ids and log-probs in somebody's notebook as captures: arrays, .npz and .csv.

One array may be padded, [R, L], with `mask` saying which tokens the engine sampled, or flattened,
[T], with `row_offsets` [R + 1]. `logp` at t is of the token at t, given those before it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.errors import CaptureError, InputError

SUFFIXES = (".npz", ".csv")
ARRAYS = ("token_ids", "mask", "attention_mask", "row_offsets")
SIDES = ("logp_infer", "logp_train")
CSV_COLUMNS = ("row", "token_id", "sampled")


def capture_from_arrays(
    token_ids: ArrayLike,
    logp: ArrayLike,
    mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    row_offsets: ArrayLike | None = None,
) -> Capture:
    """A capture of what one side says.

    Args:
        token_ids: int [R, L] or [T], prompts and answers.
        logp: float, of the same shape, nats: of the token at the same place given those before it;
            where `mask` is false it may be anything.
        mask: bool, of the same shape: tokens that the engine sampled.
        attention_mask: bool, of the same shape: which are tokens, not padding; without it a row
            ends with its last sampled token.
        row_offsets: int [R + 1], where rows begin in flattened arrays.

    Raises:
        CaptureError: shapes differ, a row has no sampled token or begins with one, or a sampled
            token has no log-prob that is a number (infinite ones are findings, NaN too).
    """
    ids, values, sampled = np.asarray(token_ids), np.asarray(logp), np.asarray(mask).astype(bool)
    kept = _kept(sampled, attention_mask, ids.shape)
    if ids.shape != values.shape or ids.shape != sampled.shape or ids.shape != kept.shape:
        raise CaptureError(
            f"Arrays of different shapes: token_ids {list(ids.shape)}, logp {list(values.shape)}, "
            f"mask {list(sampled.shape)}.",
            "logp at t is of the token at t. One of [R, L - 1] that is of the next token is to be "
            "shifted: numpy.pad(logp, ((0, 0), (1, 0))). Answers alone need their prompts before "
            "them.",
        )
    if not np.issubdtype(ids.dtype, np.integer):
        raise CaptureError(f"token_ids are {ids.dtype}, not integers.")
    if ids.ndim == 2:
        lengths = kept.sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids, values, sampled = ids[kept], values[kept], sampled[kept]
    elif ids.ndim == 1 and row_offsets is not None:
        offsets = np.asarray(row_offsets).astype(np.int64)
    else:
        raise CaptureError(
            f"token_ids has {ids.ndim} axes.", "Give [R, L], or [T] with row_offsets [R + 1]."
        )
    rows = Rows(ids.astype(np.int32), offsets, _prompt_lengths(sampled, offsets), sampled)
    capture = Capture(rows, np.where(sampled, values, np.nan).astype(np.float32))
    capture.validate("arrays")
    return capture


def _kept(
    sampled: NDArray[np.bool_], attention_mask: ArrayLike | None, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which places hold tokens."""
    if attention_mask is not None:
        return np.asarray(attention_mask).astype(bool)
    if sampled.ndim != 2 or sampled.shape != shape:
        return np.ones_like(sampled)
    # Up to the last sampled token of each row: what comes after it has nothing to compare.
    return np.flip(np.maximum.accumulate(np.flip(sampled, axis=1), axis=1), axis=1)


def _prompt_lengths(sampled: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Tokens before the first sampled one of each row."""
    lengths = []
    for row, (start, stop) in enumerate(pairwise(offsets)):
        here = np.flatnonzero(sampled[start:stop])
        if not len(here):
            raise CaptureError(f"Row {row} has no sampled token.", "Leave it out of every array.")
        if here[0] == 0:
            raise CaptureError(
                f"Row {row} begins with a sampled token: it stands after nothing.",
                "Put the prompt's tokens before it, or one token such as BOS, with mask 0.",
            )
        lengths.append(int(here[0]))
    return np.array(lengths, np.int32)


def read_pair(infer: Path, train: Path | None) -> tuple[Capture, Capture]:
    """Both sides: of one file that has them, or of two files with `logp`.

    Raises:
        InputError: a file has other sides than that.
        CaptureError: arrays that do not fit together.
    """
    first = read_arrays(infer)
    if train is None:
        if not {*SIDES} <= first.keys():
            raise InputError(
                f"{infer} has one side, {', '.join(first)}.",
                "Name the trainer's file as well, or put logp_infer and logp_train into one.",
            )
        return first["logp_infer"], first["logp_train"]
    sides = []
    for path, found in ((infer, first), (train, read_arrays(train))):
        if "logp" not in found:
            raise InputError(f"{path} has both sides.", "Compare it alone, without a second file.")
        sides.append(found["logp"])
    return sides[0], sides[1]


def is_arrays(path: Path) -> bool:
    """Whether a path is a file of arrays, rather than a capture's folder."""
    return path.suffix in SUFFIXES


def read_arrays(path: Path) -> dict[str, Capture]:
    """The captures of a file: one named `logp`, or both sides, `logp_infer` and `logp_train`.

    An .npz holds the arguments of `capture_from_arrays` by name. A .csv has one line a token, in
    order, with the columns row, token_id, sampled (0 or 1) and one or both of the log-probs.

    Raises:
        InputError: no such file, not of its kind, or arrays or columns that are unknown or missing.
        CaptureError: arrays that do not fit together.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    found = _csv(path) if path.suffix == ".csv" else _npz(path)
    said = [name for name in ("logp", *SIDES) if name in found]
    unknown = sorted(found.keys() - {*ARRAYS, "logp", *SIDES})
    if unknown or not said or not {"token_ids", "mask"} <= found.keys():
        needed = "token_ids, mask, and logp or logp_infer and logp_train"
        raise InputError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}.",
            f"Needed: {needed}; known beside these: attention_mask, row_offsets.",
        )
    shared = {name: found[name] for name in ARRAYS if name in found}
    return {name: capture_from_arrays(logp=found[name], **shared) for name in said}


def _npz(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise InputError(f"{path} is no .npz of plain arrays: {error}.") from error


def _csv(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = [name for name in reader.fieldnames or () if name]
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV: {error}.") from error
    named = [name for name in columns if name.startswith("logp")]
    missing = [name for name in CSV_COLUMNS if name not in columns]
    if missing or not lines:
        raise InputError(
            f"{path} has no column {missing[0]}." if missing else f"{path} holds no token.",
            f"Columns: {', '.join(CSV_COLUMNS)}, and logp or logp_infer and logp_train.",
        )
    try:
        rows = np.array([int(line["row"]) for line in lines])
        found: dict[str, NDArray[Any]] = {
            "token_ids": np.array([int(line["token_id"]) for line in lines]),
            "mask": np.array([int(line["sampled"]) for line in lines]),
        }
        found |= {name: np.array([float(line[name] or "nan") for line in lines]) for name in named}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}.", "Numbers alone, one line a token.") from error
    if (np.diff(rows) < 0).any():
        raise InputError(f"{path}: rows do not ascend.", "Sort it by row, keeping tokens in order.")
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1))
    return found | {"row_offsets": np.append(starts, len(rows))}
