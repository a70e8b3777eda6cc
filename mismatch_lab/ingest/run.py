"""One ingestion: files of a dump, row by row, into a record a step, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.files import Source, find_sources, of_steps, parse_steps
from mismatch_lab.ingest.formats import Format, Read, end_of_step, find_format
from mismatch_lab.ingest.report import REPORT, Report, StepReport
from mismatch_lab.ingest.rows import BOTH, NO_INFER, NO_TRAIN, Mask, Reading, choose
from mismatch_lab.ingest.sampling import HowSampled, Known, Value
from mismatch_lab.ingest.write import StepRows
from mismatch_lab.schema import OptionValue
from mismatch_lab.schema.events import OnEvent, Progressed, StageBegan


@dataclass(frozen=True)
class IngestRequest:
    """What is asked."""

    format: str
    path: Path
    out: Path
    flags: Mapping[str, Value] = field(default_factory=dict)
    """How the engine sampled, of what was given: temperature, top_p, top_k, min_p, logprobs."""
    mask: Mask = "generated"
    steps: str | None = None
    step: int | None = None
    """Of a file whose name does not say."""
    sample: int | None = None
    """Rows a step."""
    seed: int = 0
    overwrite: bool = False


def ingest(request: IngestRequest, on_event: OnEvent) -> Report:
    """Write the record: `out/decode` and `out/train` of one step, `out/step-…/` of several.

    Raises:
        MismatchLabError: wrong input, in which case nothing is written.
    """
    kind = find_format(request.format)
    steps = parse_steps(request.steps)
    check_out(request.out, request.path, request.overwrite)
    names, read = kind.find()
    reading = Reading(request.mask, how=HowSampled(request.flags))
    sources = of_steps(find_sources(request.path, names, reading), steps)
    sources = [_with_step(source, request.step) for source in sources]
    partial = _partial(request.out)
    try:
        report = _Ingestion(request, kind, read, reading, on_event).write(sources, partial)
        (partial / REPORT).write_text(report.as_json() + "\n", encoding="utf-8")
        partial.chmod(0o755)  # as mkdir makes it; mkdtemp's is for its owner alone
        _put(partial, request.out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def check_out(out: Path, path: Path, overwrite: bool) -> None:
    """Refuse to write over anything but an earlier ingestion, and that only if asked.

    Raises:
        InputError: `out` is there, or the dump lies in it.
    """
    if not out.exists():
        return
    if path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} is where the dump lies.", "Choose another --out.")
    if not (out / REPORT).is_file():
        raise InputError(
            f"{out} already exists, and ingest did not write it.", "Choose another --out."
        )
    if not overwrite:
        raise InputError(f"{out} already exists.", "Add --overwrite, or choose another --out.")


def _with_step(source: Source, step: int | None) -> Source:
    if step is None:
        return source
    if source.step not in (None, step):
        raise InputError(
            f"{source.path} is of step {source.step}, and --step is {step}.",
            "Leave --step out; --steps chooses among those of the dump.",
        )
    return Source(source.path, step, source.size)


def _partial(out: Path) -> Path:
    """A folder beside the output, to be renamed when it is whole.

    Raises:
        InputError: none can be made there.
    """
    beside = out.absolute().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=beside))
    except OSError as error:
        raise InputError(
            f"{out} cannot be made: {error.strerror}.", "Choose another --out."
        ) from error


def _put(partial: Path, out: Path) -> None:
    """Move what was written to its place, and away what stood there."""
    before = partial.with_name(f"{partial.name}.before")
    if out.exists():
        out.rename(before)
    try:
        partial.rename(out)
    except BaseException:
        if before.exists():
            before.rename(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


@dataclass
class _Ingestion:
    request: IngestRequest
    kind: Format
    read: Read
    reading: Reading
    on_event: OnEvent
    known: Known | None = None

    def write(self, sources: list[Source], folder: Path) -> Report:
        """Write every step's record into a folder, and say what it is made of."""
        began = time.perf_counter()
        by_step = [(step, list(own)) for step, own in groupby(sources, key=lambda one: one.step)]
        total = sum(source.size for source in sources)
        done, reports = 0, []
        for step, own in by_step:
            at = "" if len(by_step) == 1 else f"step-{step:08d}"
            text = f"reading {self.request.path}" + ("" if step is None else f", step {step}")
            self.on_event(StageBegan(text))
            rows = StepRows(step, self.request.sample, self.request.seed)
            for source in own:
                self._read(source, rows, done, total)
                done += source.size
            end_of_step(self.read)
            if rows.rows:
                assert self.known is not None
                reports.append(self._write(rows, folder / at, at))
        self._check_measured(reports)
        return Report(
            format=self.kind.name,
            path=str(self.request.path),
            mask=self.request.mask,
            masks=self.kind.masks,
            steps=reports,
            counts=dict(self.reading.counts),
            bytes=total,
            wall_s=time.perf_counter() - began,
            cannot_know=list(self.kind.cannot_know),
        )

    def _read(self, source: Source, rows: StepRows, done: int, total: int) -> None:
        shown = done

        def on_bytes(read: int) -> None:
            nonlocal shown
            if done + read - shown >= max(1, total // 1000):
                shown = done + read
                self.on_event(Progressed(shown, total))

        self.reading.on_bytes = on_bytes
        try:
            for row in self.read(source, self.reading):
                if self.known is None:
                    self.known = self.reading.how.known(self.kind.usual)
                chosen = choose(row, self.reading)
                if chosen is not None:
                    rows.add(chosen)
        except OSError as error:
            raise InputError(f"{source.path} cannot be read: {error.strerror}.") from error

    def _write(self, rows: StepRows, folder: Path, at: str) -> StepReport:
        options: dict[str, OptionValue] = {
            "format": self.kind.name,
            "source": str(self.request.path),
            "mask": self.request.mask,
        }
        assert self.known is not None
        rows.write(folder, self.known, options)
        kept = [row for _, row in rows.rows]
        return StepReport(
            step=rows.step,
            folder=at or ".",
            rows=len(kept),
            of_rows=rows.seen,
            tokens=rows.tokens,
            sampled=sum(int(row.sampled.sum()) for row in kept),
        )

    def _check_measured(self, reports: list[StepReport]) -> None:
        """A record in which no token has both log-probs measures nothing: it is not written."""
        counts = self.reading.counts
        if reports and counts[BOTH]:
            return
        why = "; ".join(f"{n} {text}" for text, n in counts.items() if n and text != BOTH)
        lacks = [n for n in (NO_INFER, NO_TRAIN) if counts[n]]
        what = "no token has a log-prob on both sides" if lacks else "no row has a token to compare"
        raise InputError(
            f"{self.request.path} measures nothing: {what}.",
            f"Found: {why}." if why else "",
        )
