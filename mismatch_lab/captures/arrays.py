"""Token ids and log-probs in somebody's notebook as captures: arrays, .npz, .csv and .parquet.

One array may be padded, [R, L], with `mask` saying which tokens the engine sampled, or flattened,
[T], with `row_offsets` [R + 1]. `logp` at t is of the token at t, given those before it.
What is the same in a whole row, or in all of them, may be given once: see `_of_tokens`.
"""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.packing import packs_from_arrays
from mismatch_lab.errors import CaptureError, InputError, MissingDependencyError
from mismatch_lab.schema import LogprobSpace, Manifest, OptionValue, Sampling, SideSpec

SUFFIXES = (".npz", ".csv", ".parquet")
ARRAYS = ("token_ids", "mask", "attention_mask", "row_offsets", "loss_mask")
PACKED = ("packed_rows", "packed_places")
"""Of each sequence, how the trainer packed: of no use to a capture of the engine."""
SIDES = ("logp_infer", "logp_train")
VERSIONS = {"logp_infer": "version_infer", "logp_train": "version_train"}
"""Side -> the array that says which version of the weights its log-probs are of."""
BESIDE = (
    *("attention_mask", "row_offsets", "loss_mask", "version_infer", "version_train"),
    *PACKED,
)
"""What a file may hold beside ids, mask and log-probs; of a file of one side, `version`."""
COLUMNS = ("row", "token_id", "sampled")
"""Of a table, beside log-probs: one line a token."""
OF_TOKENS = ("version", "loss_mask", *PACKED)
NAMED = ("logp", *OF_TOKENS)
"""What the names of further columns begin with."""


def capture_from_arrays(
    token_ids: ArrayLike,
    logp: ArrayLike,
    mask: ArrayLike,
    attention_mask: ArrayLike | None = None,
    row_offsets: ArrayLike | None = None,
    versions: ArrayLike | None = None,
    loss_mask: ArrayLike | None = None,
    packed_rows: ArrayLike | None = None,
    packed_places: ArrayLike | None = None,
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
        versions: int, of the weights that gave the log-probs: of that shape, or [R], or one number;
            -1 where it is not known.
        loss_mask: bool, of that shape, or [R]: which of the sampled tokens count in the loss.
        packed_rows: int [R], the number of the packed row in which the trainer had each sequence;
            -1 where it is not known. Of no other side.
        packed_places: int [R], its place in that row, 0 first; without it sequences of one packed
            row lay in the order in which they are given.

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
    offsets = _offsets(kept, row_offsets)
    said = _of_tokens("versions", versions, kept, offsets)
    counts = _of_tokens("loss_mask", loss_mask, kept, offsets)
    ids, values, sampled = ids[kept], values[kept], sampled[kept]
    rows = Rows(ids.astype(np.int32), offsets, _prompt_lengths(sampled, offsets), sampled)
    capture = Capture(
        rows,
        np.where(sampled, values, np.nan).astype(np.float32),
        versions=None if said is None else said.astype(np.int64),
        loss_mask=None if counts is None else counts.astype(bool),
        packs=None
        if packed_rows is None
        else packs_from_arrays(packed_rows, packed_places, rows.n_rows),
    )
    capture.validate("arrays")
    return capture


def _offsets(kept: NDArray[np.bool_], row_offsets: ArrayLike | None) -> NDArray[np.int64]:
    """[R + 1] where rows begin among the tokens that are kept."""
    if kept.ndim == 2:
        return np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    if kept.ndim == 1 and row_offsets is not None:
        return np.asarray(row_offsets).astype(np.int64)
    raise CaptureError(
        f"token_ids has {kept.ndim} axes.", "Give [R, L], or [T] with row_offsets [R + 1]."
    )


def _of_tokens(
    name: str,
    given: ArrayLike | None,
    kept: NDArray[np.bool_],
    offsets: NDArray[np.int64],
) -> NDArray[Any] | None:
    """[T] what is said of each token, from one number, one a row, or one a place.

    Raises:
        CaptureError: another shape, or numbers that are none.
    """
    if given is None:
        return None
    values = np.asarray(given)
    n_rows, n_tokens = len(offsets) - 1, int(offsets[-1])
    if values.dtype.kind not in "biu" and not np.array_equal(values, np.round(values)):
        raise CaptureError(f"{name} holds numbers that are not whole.")
    if values.ndim == 0:
        return np.full(n_tokens, values)
    if values.shape == kept.shape:
        return values[kept] if kept.ndim == 2 else values
    if values.shape == (n_rows,):
        return np.repeat(values, np.diff(offsets))
    raise CaptureError(
        f"{name} has shape {list(values.shape)}, for {n_rows} rows of shape {list(kept.shape)}.",
        "One for each token, or one for each row.",
    )


def manifest_of(
    name: str,
    side: SideSpec,
    capture: Capture,
    sampling: Sampling,
    space: LogprobSpace = "processed",
    options: Mapping[str, OptionValue] | None = None,
    engine_version: str = "",
    wall_s: float = 0.0,
) -> Manifest:
    """The manifest of a capture that was made of arrays.

    Args:
        name: its id; `decode` is the engine's sampling.
        side: whose program said it.
        capture: of the arrays.
        sampling: the engine's.
        space: of the engine's log-probs; a trainer's are after the temperature.
        options: what else is known of how they were made.
        engine_version: of the program, where it is known.
        wall_s: seconds that it took.
    """
    sampled = name == "decode"
    return Manifest(
        id=name,
        side=side.side,
        engine=side.engine,
        engine_version=engine_version,
        model=side.model,
        dtype=side.dtype,
        sampling=sampling if sampled else None,
        logprob_space=space if sampled else "processed",
        patched=[],
        options=dict(options or {}),
        host=platform.node(),
        packages={},
        rows=capture.rows.n_rows,
        tokens=capture.rows.n_tokens,
        wall_s=wall_s,
        arrays_sha256="",
    )


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
    order, with the columns row, token_id, sampled (0 or 1) and one or both of the log-probs; a
    .parquet has the same columns, or one line a row, whose cells are the lists of its tokens.

    Raises:
        InputError: no such file, not of its kind, or arrays or columns that are unknown or missing.
        CaptureError: arrays that do not fit together.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    found = READERS[path.suffix](path)
    said = [name for name in ("logp", *SIDES) if name in found]
    of_sides = {"logp", *SIDES, "version", *VERSIONS.values(), *PACKED}
    unknown = sorted(found.keys() - {*ARRAYS, *of_sides})
    if unknown or not said or not {"token_ids", "mask"} <= found.keys():
        needed = "token_ids, mask, and logp or logp_infer and logp_train"
        raise InputError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}.",
            f"Needed: {needed}; known beside these: {', '.join(BESIDE)}.",
        )
    shared = {name: found[name] for name in ARRAYS if name in found}
    packed = {name: found[name] for name in PACKED if name in found}
    if "packed_places" in packed and "packed_rows" not in packed:
        raise InputError(f"{path} has packed_places and no packed_rows.", "Give both.")
    return {
        name: capture_from_arrays(
            logp=found[name],
            versions=found.get(VERSIONS.get(name, "version")),
            **shared,
            **({} if name == "logp_infer" else packed),
        )
        for name in said
    }


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
    return _table(path, {name: [line[name] for line in lines] for name in columns})


def _parquet(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} needs pyarrow.", "pip install 'mismatch-lab[frames]', or write .npz or .csv."
        ) from error
    import pyarrow

    try:
        held = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is no parquet: {error}.") from error
    columns = {name: held.column(name).to_pylist() for name in held.column_names}
    ids = columns.get("token_ids")
    if ids is None:
        return _table(path, columns)
    named = [name for name in columns if name.startswith(NAMED)]
    columns = {"sampled": columns.pop("mask", None), **columns}
    if columns["sampled"] is None or not ids:
        raise InputError(f"{path} has no mask, or no row.", "Columns: token_ids, mask, logp.")
    lengths = [len(cell) for cell in ids]
    for name in (name for name in named if name.startswith(OF_TOKENS)):  # once a row will do
        columns[name] = [
            cell if isinstance(cell, list) else [cell] * length
            for cell, length in zip(columns[name], lengths, strict=True)
        ]
    for name in ("sampled", *named):
        if [len(cell) for cell in columns[name]] != lengths:
            raise InputError(f"{path}: cells of {name} are not as long as those of token_ids.")
    flat = {name: [value for cell in columns[name] for value in cell] for name in named}
    rows = np.repeat(np.arange(len(ids)), lengths).tolist()
    flat |= {"row": rows, "token_id": [token for cell in ids for token in cell]}
    flat["sampled"] = [value for cell in columns["sampled"] for value in cell]
    return _table(path, flat)


def _table(path: Path, columns: Mapping[str, list[Any]]) -> Mapping[str, NDArray[Any]]:
    """Arrays of a table with one line a token."""
    named = [name for name in columns if name.startswith(NAMED)]
    missing = [name for name in COLUMNS if name not in columns]
    if missing or not columns["row"]:
        raise InputError(
            f"{path} has no column {missing[0]}." if missing else f"{path} holds no token.",
            f"Columns: {', '.join(COLUMNS)}, and logp or logp_infer and logp_train.",
        )
    try:
        rows = np.array([int(value) for value in columns["row"]])
        found: dict[str, NDArray[Any]] = {
            "token_ids": np.array([int(value) for value in columns["token_id"]]),
            "mask": np.array([int(value) for value in columns["sampled"]]),
        }
        found |= {name: np.array([_number(value) for value in columns[name]]) for name in named}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}.", "Numbers alone, one line a token.") from error
    if (np.diff(rows) < 0).any():
        raise InputError(f"{path}: rows do not ascend.", "Sort it by row, keeping tokens in order.")
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1))
    for name in (name for name in PACKED if name in found):
        of_rows = found[name][starts]
        if (np.repeat(of_rows, np.diff(np.append(starts, len(rows)))) != found[name]).any():
            raise InputError(f"{path}: {name} is not the same throughout a row.")
        found[name] = of_rows
    return found | {"row_offsets": np.append(starts, len(rows))}


def _number(value: Any) -> float:
    return float("nan") if value is None or value == "" else float(value)


READERS = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
"""By suffix."""
