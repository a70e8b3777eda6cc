"""Files of a dump: which there are, of which step, whether they are whole; and lines of JSON."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from mismatch_lab.errors import InputError, few
from mismatch_lab.ingest.rows import Reading

STILL_WRITTEN_S = 10.0
"""A file that was changed so recently may still be written, where a format has no mark of its own;
Miles' own reader waits as long."""

MOST_FILES = 100_000
"""Of a dump: a file a step and rank. Beyond it the folder is something else."""

MOST_LINE_BYTES = 2**28
"""Of one line: a row of 500,000 tokens with every column that prime-rl writes."""

BEYOND_FLOAT32 = b"1e308"
"""What JSON can write for Infinity: log-probs are kept as float32, of which it is infinite."""

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A file of a dump."""

    path: Path
    step: int | None
    """None where its name does not say."""
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Names:
    """How a format names its files."""

    pattern: str
    """Regular expression of the end of a path, with a group `step` where it has one."""
    looked_for: str
    """The same for people."""
    stable: str = ""
    """File that lies beside whole ones; without it a file's age tells."""
    settles: bool = True
    """False where somebody exports the file and a loop does not write it."""


def find_sources(path: Path, names: Names, reading: Reading) -> list[Source]:
    """The whole files of a dump, by step.

    Raises:
        InputError: none, none that is whole, or of several runs.
    """
    if path.is_file():
        if path.suffix != Path(names.looked_for).suffix:
            raise InputError(f"{path} is no {names.looked_for}.")
        found = [_source(path, names)]
    else:
        found = _walk(path, names)
        _one_run(path, found)
    whole = [source for source in found if not _still_written(source, names)]
    if not whole:
        mark = f"{names.stable} lies beside none" if names.stable else "all were changed just now"
        raise InputError(
            f"{path}: {len(found)} files, and {mark}: still being written?", "Wait for the step."
        )
    if len(whole) < len(found):
        reading.counts["files left out (still being written)"] += len(found) - len(whole)
    return sorted(whole, key=lambda one: (-1 if one.step is None else one.step, str(one.path)))


def _walk(folder: Path, names: Names) -> list[Source]:
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist.")
    found: list[Source] = []
    seen = 0
    for base, _folders, files in os.walk(folder):
        seen += len(files)
        if seen > MOST_FILES:
            raise InputError(
                f"{folder} holds more than {MOST_FILES} files.", "Name a folder in it."
            )
        at = Path(base)
        found += [_source(at / f, names) for f in files if _matches(at / f, names)]
    if not found:
        raise InputError(
            f"{folder} holds no {names.looked_for}.", "Is it the folder that the run wrote to?"
        )
    return found


def _matches(path: Path, names: Names) -> re.Match[str] | None:
    return re.search(f"/{names.pattern}$", path.absolute().as_posix())


def _source(path: Path, names: Names) -> Source:
    found = _matches(path, names)
    step = found.groupdict().get("step") if found else None
    return Source(path, None if step is None else int(step), path.stat().st_size)


def _one_run(folder: Path, found: list[Source]) -> None:
    """Files of one run lie beside each other, or in folders named after steps."""
    bases = sorted({str(_base(source.path)) for source in found})
    if len(bases) > 1:
        raise InputError(f"{folder} holds several runs: {few(bases)}.", "Name one of them.")


def _base(path: Path) -> Path:
    parent = path.parent
    return parent.parent if re.fullmatch(r"step_\d+", parent.name) else parent


def _still_written(source: Source, names: Names) -> bool:
    if names.stable:
        return not (source.path.parent / names.stable).exists()
    return names.settles and time.time() - source.path.stat().st_mtime < STILL_WRITTEN_S


def parse_steps(text: str | None) -> list[range] | None:
    """`3:7` is 3 to 6, `3,5` two steps; None is all.

    Raises:
        InputError: it is neither.
    """
    if text is None:
        return None
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,12})(?::(\d{1,12}))?\s*", part)
        if not found:
            raise InputError(
                f"--steps {text!r} is no list of steps.", "As 3:7, which is 3 to 6, or 3,5,9."
            )
        first = int(found[1])
        ranges.append(range(first, int(found[2]) if found[2] else first + 1))
    return ranges


def of_steps(sources: list[Source], steps: list[range] | None) -> list[Source]:
    """Those of the steps.

    Raises:
        InputError: there is none of them, or the files' names do not say which they are of.
    """
    if steps is None:
        return sources
    known = sorted({source.step for source in sources if source.step is not None})
    if not known:
        raise InputError("The dump does not say steps.", "Leave --steps out.")
    chosen = [s for s in sources if s.step is not None and any(s.step in r for r in steps)]
    if not chosen:
        raise InputError(
            "The dump has none of --steps.", f"It has {len(known)}, from {known[0]} to {known[-1]}."
        )
    return chosen


def json_lines(source: Source, kind: type[T], reading: Reading) -> Iterator[tuple[str, T]]:
    """(file and line, what it holds); keys that `kind` has not are skipped.

    Python's json writes NaN and Infinity, which JSON has not: they are read as null and infinite.

    Raises:
        InputError: a line that is none, is cut off, or is too long.
    """
    decoder = msgspec.json.Decoder(kind)
    read = number = 0
    with source.path.open("rb", buffering=1 << 20) as stream:
        while line := stream.readline(MOST_LINE_BYTES + 1):
            number += 1
            read += len(line)
            where = f"{source.path}:{number}"
            if len(line) > MOST_LINE_BYTES:
                raise InputError(f"{where}: a line of more than {MOST_LINE_BYTES >> 20} MiB.")
            if not line.isspace():
                yield where, _decoded(line, decoder, where)
            reading.on_bytes(read)


def _decoded(line: bytes, decoder: msgspec.json.Decoder[T], where: str) -> T:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        first: Exception = error
    if b"NaN" in line or b"Infinity" in line:
        # Within text, which is not read, it does no harm.
        put_right = line.replace(b"NaN", b"null").replace(b"Infinity", BEYOND_FLOAT32)
        try:
            return decoder.decode(put_right)
        except (msgspec.DecodeError, RecursionError) as error:
            first = error
    cut = "" if line.endswith(b"\n") else " It is the last, and has no end: cut off?"
    raise InputError(f"{where}: {first}.{cut}", "Leave the line out, or write the dump anew.")
