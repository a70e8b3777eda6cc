"""A comparison as a run's folder: `findings.json`, both captures and `report.html`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mismatch_lab.captures.arrays import is_arrays, manifest_of
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import MANIFEST, save_capture
from mismatch_lab.engines.base import RECORDED
from mismatch_lab.errors import InputError
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.run.diagnose import FINDINGS_FILE, locked, prepare_folder
from mismatch_lab.run.recorded import Record, check_out, read_record
from mismatch_lab.schema import Findings, Limits, Manifest, Sampling, SideSpec, write_json

NOT_KNOWN = "not known"
"""Model and dtype of arrays, which do not say them."""


def compare_record(paths: tuple[Path, ...]) -> tuple[Record, Findings]:
    """Two captures, a folder that holds both, or arrays of a file or two, against each other.

    Raises:
        InputError: there are not two sides.
        CaptureError: a file cannot be read.
        AlignmentError: the sides hold other tokens.
    """
    if len(paths) == 1 and not is_arrays(paths[0]) and not _holds_captures(paths[0]):
        raise InputError("One capture has nothing to be compared with.", "Name the trainer's, too.")
    record = read_record(paths)
    names = (str(paths[0]), str(paths[-1]))
    infer, train = record.captures["decode"], record.captures["train"]
    of = None
    if {"decode", "train"} <= record.manifests.keys():
        of = record.manifests["decode"], record.manifests["train"]
    findings = compare_findings(infer, train, names, Limits(), of)
    if of is not None and of[0].logprob_space != of[1].logprob_space:
        note = f"One side is {of[0].logprob_space}, the other {of[1].logprob_space}."
        findings = findings.model_copy(update={"notes": [*findings.notes, note]})
    return record, findings


def _holds_captures(path: Path) -> bool:
    """Whether a folder holds captures, and is none itself."""
    return path.is_dir() and not (path / MANIFEST).is_file()


def folder_of(path: Path) -> Path:
    """Where a comparison goes that is given no folder."""
    stamp = datetime.now().astimezone()
    return Path("runs") / f"{path.resolve().stem}-compared-{stamp:%Y%m%d-%H%M%S}"


def write_comparison(
    record: Record, findings: Findings, paths: tuple[Path, ...], out: Path, overwrite: bool = False
) -> Path:
    """Write a comparison to a folder of its own; returns the report's path.

    Args:
        record: both sides.
        findings: of them.
        paths: where they were read.
        out: the folder.
        overwrite: replace a finished run.

    Raises:
        InputError: `out` holds something else, or is where the record lies.
    """
    from mismatch_lab.report.page import write_report

    check_out(out, paths)
    prepare_folder(out, overwrite)
    with locked(out):
        for name in ("decode", "train"):
            shown = _shown(record.captures[name])
            save_capture(out / "captures" / name, shown, _manifest(record, name, shown))
        write_json(out / FINDINGS_FILE, findings)
        return write_report(out)


def _shown(capture: Capture) -> Capture:
    """What a report shows of a capture: neither modules nor weights."""
    return replace(capture, hidden={}, router_logits=None, weights={}, draws=None)


def _manifest(record: Record, name: str, capture: Capture) -> Manifest:
    """Its own; of arrays, that nothing is known of how they were made."""
    if name in record.manifests:
        return record.manifests[name].model_copy(update={"id": name})
    side = SideSpec(
        side="train" if name == "train" else "infer",
        engine=RECORDED,
        model=NOT_KNOWN,
        dtype=NOT_KNOWN,
    )
    made = manifest_of(name, side, capture, Sampling())
    return made.model_copy(update={"sampling": None})
