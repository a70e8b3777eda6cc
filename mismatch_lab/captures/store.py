"""Captures on disk: `manifest.json` and `arrays.safetensors`, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.draws import draws_from_arrays, draws_to_arrays
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.errors import CaptureError
from mismatch_lab.schema import Manifest

MANIFEST = "manifest.json"
ARRAYS = "arrays.safetensors"
WEIGHTS = "weights.json"
TOKEN_TEXT = "token_text.json"
TAPS = "taps.json"
REQUIRED = ("token_ids", "row_offsets", "prompt_lengths", "logp")
_OF_MODULES = re.compile("hidden/|router_logits$")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_capture(folder: Path, capture: Capture, manifest: Manifest) -> Manifest:
    """Write a capture to `folder`; a killed run leaves either all of it or none.

    Returns the manifest with the checksum filled in.

    Raises:
        CaptureError: the arrays do not fit together, or `folder` exists.
    """
    capture.validate(f"capture {manifest.id}")
    if folder.exists():
        raise CaptureError(f"{folder} already exists.", "Choose another --out, or --overwrite.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
    )
    try:
        save_file(_arrays(capture), temporary / ARRAYS)
        final = manifest.model_copy(update={"arrays_sha256": sha256_of(temporary / ARRAYS)})
        (temporary / MANIFEST).write_text(final.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if capture.weights:
            entries = {name: one.as_json() for name, one in capture.weights.items()}
            (temporary / WEIGHTS).write_text(json.dumps(entries, indent=1), encoding="utf-8")
        if capture.token_text:
            (temporary / TOKEN_TEXT).write_text(json.dumps(capture.token_text), encoding="utf-8")
        if capture.tap_order or capture.not_recorded:
            taps = {"order": capture.tap_order, "not_recorded": capture.not_recorded}
            (temporary / TAPS).write_text(json.dumps(taps, indent=1), encoding="utf-8")
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        temporary.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def load_capture(
    folder: Path, verify: bool = True, modules: bool = True
) -> tuple[Capture, Manifest]:
    """Read a capture.

    Args:
        folder: of the capture.
        verify: hold the arrays against their checksum.
        modules: read hidden states and router logits too: gigabytes, of a large model.

    Raises:
        CaptureError: not a capture, an unknown field or version, damaged, or arrays that do not
            fit together.
    """
    manifest = load_manifest(folder)
    path = folder / ARRAYS
    if not path.is_file():
        raise CaptureError(f"{folder} has no {ARRAYS}: not a whole capture.", "Capture it again.")
    if verify and sha256_of(path) != manifest.arrays_sha256:
        raise CaptureError(f"{path} does not match its checksum: damaged.", "Capture it again.")
    try:
        with safe_open(path, "np") as file:
            held = file.keys()
            asked = [name for name in held if modules or not _OF_MODULES.match(name)]
            arrays = {name: file.get_tensor(name) for name in asked}
    except (SafetensorError, OSError, struct.error) as error:
        raise CaptureError(f"{path} cannot be read: {error}.", "Capture it again.") from error
    capture = _capture(arrays, folder)
    capture.validate(str(folder))
    return capture, manifest


def load_manifest(folder: Path) -> Manifest:
    """Read only a capture's manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CaptureError(
            f"{folder} is not a capture: it has no {MANIFEST}.",
            "Name a folder such as RUN/captures/decode.",
        )
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CaptureError(f"{path} is not a manifest this version reads: {error}") from error


def load_token_text(folder: Path) -> dict[int, str]:
    """Text of the token ids of a capture; empty where it has none."""
    return {int(token): string for token, string in _json(folder / TOKEN_TEXT).items()}


def _arrays(capture: Capture) -> dict[str, NDArray[Any]]:
    rows = capture.rows
    arrays: dict[str, NDArray[Any]] = {
        "token_ids": rows.token_ids.astype(np.int32),
        "row_offsets": rows.row_offsets.astype(np.int64),
        "prompt_lengths": rows.prompt_lengths.astype(np.int32),
        "sampled": rows.sampled.astype(np.uint8),
        "logp": capture.logp.astype(np.float32),
    }
    if len(capture.probe_positions):
        arrays["probe_positions"] = capture.probe_positions.astype(np.int64)
    if capture.probe_logp is not None:
        arrays["probe_logp"] = capture.probe_logp.astype(np.float32)
    if capture.probe_lse is not None:
        arrays["probe_lse"] = capture.probe_lse.astype(np.float32)
    if capture.router_topk is not None:
        arrays["router_topk"] = capture.router_topk.astype(np.int16)
    if capture.router_logits is not None:
        arrays["router_logits"] = capture.router_logits.astype(np.float32)
    if capture.versions is not None:
        arrays["versions"] = capture.versions.astype(np.int64)
    if capture.loss_mask is not None:
        arrays["loss_mask"] = capture.loss_mask.astype(np.uint8)
    if capture.packs is not None:
        arrays["packs"] = capture.packs.astype(np.int64)
    if capture.draws is not None:
        arrays |= draws_to_arrays(capture.draws)
    arrays |= {f"hidden/{name}": a.astype(np.float32) for name, a in capture.hidden.items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _capture(arrays: dict[str, NDArray[Any]], folder: Path) -> Capture:
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise CaptureError(f"{folder}: {ARRAYS} lacks {', '.join(missing)}.", "Capture it again.")
    sampled = arrays.get("sampled")
    rows = Rows(
        arrays["token_ids"],
        arrays["row_offsets"],
        arrays["prompt_lengths"],
        sampled.astype(bool) if sampled is not None else _after_prompt(arrays),
    )
    taps = _json(folder / TAPS)
    return Capture(
        rows,
        arrays["logp"],
        arrays.get("probe_positions", np.zeros(0, np.int64)),
        arrays.get("probe_logp"),
        arrays.get("router_topk"),
        arrays.get("router_logits"),
        {name[len("hidden/") :]: a for name, a in arrays.items() if name.startswith("hidden/")},
        _weights(folder / WEIGHTS),
        load_token_text(folder),
        arrays.get("probe_lse"),
        tuple(taps.get("order", ())),
        taps.get("not_recorded", {}),
        draws_from_arrays(arrays, str(folder)),
        arrays.get("versions"),
        arrays["loss_mask"].astype(bool) if "loss_mask" in arrays else None,
        arrays.get("packs"),
    )


def _weights(path: Path) -> dict[str, Fingerprint]:
    try:
        return {name: Fingerprint.from_json(entry) for name, entry in _json(path).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptureError(
            f"{path} is damaged, or holds another version's fingerprints.",
            f"Capture it again; without {WEIGHTS} all but the weights is still compared.",
        ) from error


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def _after_prompt(arrays: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Single-turn captures of other tools need not say which tokens were sampled."""
    offsets, lengths = arrays["row_offsets"], np.diff(arrays["row_offsets"])
    position = np.arange(len(arrays["token_ids"])) - np.repeat(offsets[:-1], lengths)
    return np.asarray(position >= np.repeat(arrays["prompt_lengths"], lengths), bool)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
