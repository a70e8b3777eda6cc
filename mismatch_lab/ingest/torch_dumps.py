"""slime and Miles: `train_data/{rollout_id}….pt`, written by torch.save.

Both keep lists: `tokens` are a prompt and a response of R tokens, and per-token fields have length
R. slime's format 2 has a dictionary a sample; its format before, and Miles', a list a column and a
file a rank, of which tensor-parallel ones are duplicates and context-parallel ones hold parts. Only
plain data and tensors are read (weights_only): a file that asks for anything else is refused, and
no code of it runs.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.ingest.arrays import as_array, as_choices
from mismatch_lab.ingest.context_parallel import CUT, DUPLICATE, KEY, PADDED_TO, Parts
from mismatch_lab.ingest.files import Names, Source
from mismatch_lab.ingest.prime_rl import with_generated
from mismatch_lab.ingest.rows import DumpRow, Reading, build_row

NAMES = Names(r"train_data/(?P<step>\d+)(?:_\d+)?\.pt", "train_data/*.pt")

COLUMNS = ("tokens", "response_lengths", "loss_masks", "rollout_log_probs", "log_probs")
VERSIONS = "weight_versions"
EXPERTS = "rollout_routed_experts"
"""[T - 1, L, K], with routing replay: the engine's choices."""
BESIDE = (VERSIONS, EXPERTS)
"""What slime keeps in the rollout's file alone."""
SUPPORT = "rollout_top_p_token_ids"
NO_TRAIN_FILE = "files without log_probs (of a rank that does not compute them)"
NO_ROLLOUT = "rows without rollout_log_probs"
NO_VERSIONS = "files whose rollout_data/ could not be read for weight versions"


def load_plain(stream: Any, where: str) -> Any:
    """What torch.save wrote, if it is tensors and plain data.

    Raises:
        InputError: it is cut off, no such archive, or asks for code.
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{where} needs torch.", "pip install 'mismatch-lab[train]'."
        ) from error
    _check_archive(stream, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages that torch itself has renamed
            mapped = isinstance(stream, str)
            return torch.load(stream, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        lines = str(error).strip().splitlines() or [""]
        asked = next((line for line in lines if "GLOBAL" in line or "global" in line), lines[0])
        raise InputError(
            f"{where} holds more than tensors and plain data, and is not read: {asked.strip()}"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"{where} is damaged: {(str(error).splitlines() or [''])[0]}.") from error


def _check_archive(stream: Any, where: str) -> None:
    """torch writes a zip whose entries are stored as they are: no entry may say it is larger."""
    try:
        with zipfile.ZipFile(stream) as archive:
            packed = [e.filename for e in archive.infolist() if e.compress_size != e.file_size]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(
            f"{where} is no file of torch.save: {error}.", "Cut off, or still being written?"
        ) from error
    if packed:
        raise InputError(f"{where} is no file of torch.save: {packed[0]} is compressed.")
    if not isinstance(stream, str):
        stream.seek(0)


class Reader:
    """Reads files of one dump; remembers rows of the step, for duplicates."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.seen: dict[bytes, str] = {}
        """Digest of a row -> file that it was first in."""
        self.parts = Parts()

    def __call__(self, source: Source, reading: Reading) -> Iterator[DumpRow]:
        """Rows of a file.

        Raises:
            InputError: not a file of slime or Miles, one that asks for code, or columns that do not
                fit together.
        """
        held = load_plain(str(source.path), str(source.path))
        samples = _samples(source, held, reading)
        if source.step != self.step:
            self.step, self.seen = source.step, {}
        for number, sample in enumerate(samples):
            where = f"{source.path}, sample {number}"
            whole: Mapping[str, Any] | None = sample
            if _is_cut(held, sample):
                whole = self.parts.add(where, held, sample, reading.counts)
            row = None if whole is None else _row(where, whole, reading)
            if row is not None and not self._duplicate(row, source, reading):
                yield row
            reading.on_bytes(source.size * (number + 1) // len(samples))

    def end_of_step(self) -> None:
        """Raise InputError where parts of a sequence are missing."""
        self.parts.end()

    def _duplicate(self, row: DumpRow, source: Source, reading: Reading) -> bool:
        parts = (row.token_ids, row.logp_infer, row.logp_train)
        key = hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).digest()
        if self.seen.setdefault(key, source.path.name) == source.path.name:
            return False
        reading.counts[DUPLICATE] += 1
        return True


def _is_cut(held: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether a file holds parts of sequences; a row without the engine's side is none to join."""
    return (
        "rollout_data" in held
        and (held.get("cp_size") or 1) != 1
        and all(sample.get(name) is not None for name in CUT)
    )


def _samples(source: Source, held: Any, reading: Reading) -> list[Mapping[str, Any]]:
    """A dictionary a sample, of either layout."""
    if not isinstance(held, dict) or not {"samples", "rollout_data"} & held.keys():
        raise InputError(f"{source.path} is no train data of slime or Miles.", _wanted(held))
    if "samples" in held:
        samples = held["samples"]
        if not isinstance(samples, list) or not all(isinstance(one, dict) for one in samples):
            raise InputError(f"{source.path}: samples are no list of dictionaries.")
        if samples and "response_length" in samples[0]:
            raise InputError(
                f"{source.path} is a rollout's data: the engine's side alone.", _wanted(held)
            )
        return _with_versions(source, samples, reading)
    return _transposed(source, held["rollout_data"], reading)


def _wanted(held: Any) -> str:
    known = ", ".join(sorted(map(str, held))[:8]) if isinstance(held, dict) else type(held).__name__
    return (
        f"It holds {known}. Wanted: train_data/ of --dump-details, or of --save-debug-train-data."
    )


def _transposed(source: Source, columns: Any, reading: Reading) -> list[Mapping[str, Any]]:
    if not isinstance(columns, dict):
        raise InputError(f"{source.path}: rollout_data is no dictionary of columns.")
    if columns.get("log_probs") is None:
        reading.counts[NO_TRAIN_FILE] += 1
        return []
    wanted = (*COLUMNS, *BESIDE, SUPPORT, KEY, PADDED_TO)
    names = [n for n in wanted if columns.get(n) is not None]
    lengths = {n: len(c) if isinstance(c := columns[n], list | tuple) else -1 for n in names}
    if len(set(lengths.values())) > 1 or lengths["log_probs"] < 0:
        raise InputError(f"{source.path}: columns that are no lists of one length: {lengths}.")
    return [{name: columns[name][at] for name in names} for at in range(lengths["log_probs"])]


def _with_versions(
    source: Source, samples: list[Mapping[str, Any]], reading: Reading
) -> list[Mapping[str, Any]]:
    """slime keeps versions and choices of experts in the rollout's file; its positions are there in
    both.
    """
    beside = source.path.parent.parent / "rollout_data" / source.path.name
    if not beside.is_file() or any(VERSIONS in sample for sample in samples):
        return samples
    try:
        rollout = load_plain(str(beside), str(beside))["samples"]
        return [
            {
                **sample,
                VERSIONS: rollout[sample["rollout_position"]].get(VERSIONS) or (),
                EXPERTS: rollout[sample["rollout_position"]].get(EXPERTS),
            }
            for sample in samples
        ]
    except (InputError, KeyError, IndexError, TypeError, AttributeError):
        reading.counts[NO_VERSIONS] += 1
        return samples


def _row(where: str, sample: Mapping[str, Any], reading: Reading) -> DumpRow | None:
    if sample.get(SUPPORT) is not None:
        reading.how.hold_support(where, SUPPORT)
    if sample.get("rollout_log_probs") is None:
        reading.counts[NO_ROLLOUT] += 1
        return None
    missing = [name for name in COLUMNS if sample.get(name) is None]
    if missing:
        raise InputError(f"{where} has no {missing[0]}.")
    array = partial(as_array, where)
    ids = array("tokens", sample["tokens"])
    length = array("response_lengths", sample["response_lengths"])
    answer = int(length[0]) if length.size == 1 and length.dtype.kind in "iu" else -1
    if not 0 <= answer <= len(ids):
        said = answer if answer >= 0 else sample["response_lengths"]
        raise InputError(f"{where}: a response of {said} in {len(ids)} tokens.")
    whole = {}
    for name in COLUMNS[2:]:
        part = array(name, sample[name])
        if part.shape != (answer,):
            raise InputError(
                f"{where}: {name} has {part.size} values for a response of {answer}.",
                "Parts of sequences are put together where the file says which (cp_rank, cp_size).",
            )
        whole[name] = np.concatenate([np.zeros(len(ids) - answer, part.dtype), part])
    mask = whole.pop("loss_masks")
    versions = tuple(str(one) for one in sample.get(VERSIONS) or ())
    row = with_generated(build_row(where, ids, mask, mask, whole, versions))
    if sample.get(EXPERTS) is None:
        return row
    return replace(row, experts=as_choices(where, EXPERTS, sample[EXPERTS], len(ids)))
