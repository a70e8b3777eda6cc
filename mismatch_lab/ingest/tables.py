""".csv and .parquet of the columns that `compare` reads, in pieces: `captures.arrays` reads whole
files at once.

One line a token, in order: row, token_id, sampled, logp_infer, logp_train; a .parquet may have one
line a row instead, whose cells are lists: token_ids, mask and the log-probs. `loss` marks tokens
that the loss counts; packed_rows numbers the packed row that the trainer had a sequence in, in the
order of its sequences if packed_places does not say otherwise; temperature, top_p, top_k, min_p and
logprobs say how the engine sampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.arrays import COLUMNS, PACKED, SIDES
from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.ingest.files import Names, Source
from mismatch_lab.ingest.rows import MOST_ROW_TOKENS, DumpRow, Pack, Reading, build_row

CSV_NAMES = Names(r"[^/]*\.csv", "*.csv", settles=False)
PARQUET_NAMES = Names(r"[^/]*\.parquet", "*.parquet", settles=False)

SAID = ("temperature", "top_p", "top_k", "min_p", "logprobs")
"""Columns that say how the engine sampled: one value in the whole file."""

BLOCK_BYTES = 2**23
"""Of a .csv that are parsed at a time."""
BATCH_LINES = 2**16
"""Of a .parquet that are read at a time: one line a token."""
BATCH_ROWS = 64
"""The same where a line is a row."""

Columns = Mapping[str, Any]
Places = Counter[int]
"""Sequences of each packed row so far."""

OPTIONAL = ("loss", *PACKED)
"""Columns that need not be there."""


def read_csv(source: Source, reading: Reading) -> Iterator[DumpRow]:
    """Rows of a .csv.

    Raises:
        InputError: a column that is missing, or a value that is no number; rows do not ascend.
        MissingDependencyError: pyarrow is not installed.
    """
    yield from _rows_of_tokens(source, _csv_batches(source, reading), reading)


def read_parquet(source: Source, reading: Reading) -> Iterator[DumpRow]:
    """Rows of a .parquet, of either layout; raises as `read_csv`."""
    arrow = _pyarrow(source.path)
    try:
        held = arrow.parquet.ParquetFile(source.path)
        names = held.schema_arrow.names
        if "token_ids" in names:
            yield from _rows_of_cells(source, held, reading)
        else:
            yield from _rows_of_tokens(source, _parquet_batches(source, held, reading), reading)
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{source.path} is no parquet: {error}.") from error


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} needs pyarrow.", "pip install 'mismatch-lab[frames]'."
        ) from error
    return pyarrow


def _csv_batches(source: Source, reading: Reading) -> Iterator[Columns]:
    arrow = _pyarrow(source.path)
    csv, number = arrow.csv, arrow.float64()
    whole = {"row": arrow.int64(), "token_id": arrow.int64(), "sampled": arrow.int8()}
    whole |= dict.fromkeys(PACKED, arrow.int64())
    types = {**whole, "loss": arrow.int8(), **dict.fromkeys(SIDES, number)}
    types |= {name: number for name in SAID if name != "logprobs"}
    converted = csv.ConvertOptions(column_types=types)
    names: list[str] | None = None
    try:
        for block, read in _blocks(source):
            # The first line of the file names the columns, for all blocks.
            options = csv.ReadOptions(column_names=names)
            table = csv.read_csv(arrow.BufferReader(block), options, convert_options=converted)
            names = table.column_names
            yield {name: table.column(name) for name in names}
            reading.on_bytes(read)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source.path} is no CSV: {error}.") from error


def _blocks(source: Source) -> Iterator[tuple[bytes, int]]:
    """(whole lines, bytes of the file read so far); arrow's own reader keeps more than a block."""
    read, rest = 0, b""
    with source.path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            read += len(block)
            lines, newline, end = (rest + block).rpartition(b"\n")
            rest = end if newline else lines + end
            if newline:
                yield lines + newline, read
            if len(rest) > BLOCK_BYTES:
                raise InputError(f"{source.path}: a line of more than {BLOCK_BYTES} bytes.")
    if rest or not read:
        yield rest, read


def _parquet_batches(source: Source, held: Any, reading: Reading) -> Iterator[Columns]:
    seen, lines = 0, max(1, held.metadata.num_rows)
    for batch in held.iter_batches(batch_size=BATCH_LINES):
        yield {name: batch.column(name) for name in batch.schema.names}
        seen += batch.num_rows
        reading.on_bytes(source.size * seen // lines)


def _rows_of_tokens(
    source: Source, batches: Iterator[Columns], reading: Reading
) -> Iterator[DumpRow]:
    """Rows of lines a token; the last row of a batch may go on in the next."""
    kept: dict[str, NDArray[Any]] = {}
    last, places = None, Places()
    for batch in batches:
        _check_columns(source, batch, COLUMNS, reading)
        names = [*COLUMNS, *SIDES, *(name for name in OPTIONAL if name in batch)]
        columns = {name: _column(source, name, batch[name]) for name in names}
        if last is not None and len(columns["row"]) and columns["row"][0] < last:
            raise _unsorted(source)
        kept = {n: np.concatenate([kept[n], c]) if kept else c for n, c in columns.items()}
        if not len(kept["row"]):
            continue
        last = int(kept["row"][-1])
        if (np.diff(kept["row"]) < 0).any():
            raise _unsorted(source)
        begins = [0, *(np.flatnonzero(np.diff(kept["row"])) + 1).tolist()]
        for start, stop in pairwise(begins):
            yield _row(source, {n: c[start:stop] for n, c in kept.items()}, places)
        kept = {n: c[begins[-1] :] for n, c in kept.items()}
        if len(kept["row"]) > MOST_ROW_TOKENS:
            raise InputError(f"{source.path}: row {last} has more than {MOST_ROW_TOKENS} tokens.")
    if last is None:
        raise InputError(f"{source.path} holds no token.")
    yield _row(source, kept, places)


def _unsorted(source: Source) -> InputError:
    return InputError(
        f"{source.path}: rows do not ascend.", "Sort it by row, keeping tokens in order."
    )


def _row(source: Source, columns: Mapping[str, NDArray[Any]], places: Places) -> DumpRow:
    where = f"{source.path}, row {columns['row'][0]}"
    logp = {name: columns[name] for name in SIDES}
    for name in PACKED:
        if name in columns and len(np.unique(columns[name])) > 1:
            raise InputError(f"{where}: {name} is not the same throughout a row.")
    said = {name: columns[name][0] for name in PACKED if name in columns}
    row = build_row(where, columns["token_id"], columns["sampled"], columns.get("loss"), logp)
    return replace(row, pack=_pack(said, places))


def _pack(said: Mapping[str, Any], places: Places) -> Pack | None:
    """None without a number of the packed row, or below 0: not known."""
    if "packed_rows" not in said or said["packed_rows"] < 0:
        return None
    name = int(said["packed_rows"])
    places[name] += 1
    return (name,), int(said.get("packed_places", places[name] - 1))


def _rows_of_cells(source: Source, held: Any, reading: Reading) -> Iterator[DumpRow]:
    seen, rows, places = 0, max(1, held.metadata.num_rows), Places()
    for batch in held.iter_batches(batch_size=BATCH_ROWS):
        columns = {name: batch.column(name) for name in batch.schema.names}
        _check_columns(source, columns, ("token_ids", "mask"), reading)
        for at in range(batch.num_rows):
            cells = {
                name: _cell(source, name, columns[name], at)
                for name in ("token_ids", "mask", *SIDES, "loss")
                if name in columns
            }
            logp = {name: cells[name] for name in SIDES}
            where = f"{source.path}, row {seen + at}"
            row = build_row(where, cells["token_ids"], cells["mask"], cells.get("loss"), logp)
            said = {name: columns[name][at].as_py() for name in PACKED if name in columns}
            yield replace(row, pack=_pack(said, places))
        seen += batch.num_rows
        reading.on_bytes(source.size * seen // rows)
    if not seen:
        raise InputError(f"{source.path} holds no row.")


def _cell(source: Source, name: str, column: Any, at: int) -> NDArray[Any]:
    values = getattr(column[at], "values", None)
    if values is None:
        raise InputError(f"{source.path}, row {at}: {name} is no list.")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _column(source: Source, name: str, column: Any) -> NDArray[Any]:
    if column.null_count and name not in SIDES:
        raise InputError(f"{source.path}: {name} is empty in some line.")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _check_columns(
    source: Source, columns: Columns, needed: tuple[str, ...], reading: Reading
) -> None:
    missing = [name for name in (*needed, *SIDES) if name not in columns]
    if missing:
        raise InputError(
            f"{source.path} has no column {missing[0]}.",
            f"Columns: {', '.join((*needed, *SIDES))}; a file of one side is for `compare`.",
        )
    for name in SAID:
        if name in columns and len(columns[name]):
            values = columns[name].unique().to_pylist()
            if len(values) > 1:
                raise InputError(
                    f"{source.path}: {name} is {values[0]} and {values[1]}.",
                    "One record is of one way to sample: split the file.",
                )
            reading.how.hold(str(source.path), name, values[0])
