"""A capture on disk is there whole or not at all, and damage is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mismatch_lab.captures import store
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.draws import Draws
from mismatch_lab.captures.store import load_capture, save_capture, sha256_of
from mismatch_lab.errors import CaptureError
from mismatch_lab.measures.suppositions import FAMILIES
from mismatch_lab.schema import Manifest


@pytest.fixture
def folder(tmp_path: Path, capture: Capture, manifest: Manifest) -> Path:
    """A saved capture."""
    save_capture(tmp_path / "decode", capture, manifest)
    return tmp_path / "decode"


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_versions_and_the_loss_mask_come_back(
    tmp_path: Path, capture: Capture, manifest: Manifest
) -> None:
    said = replace(capture, versions=np.arange(6) - 1, loss_mask=np.arange(6) > 3)
    save_capture(tmp_path / "said", said, manifest)
    loaded, _ = load_capture(tmp_path / "said")
    np.testing.assert_array_equal(loaded.versions, said.versions)
    np.testing.assert_array_equal(loaded.loss_mask, said.loss_mask)


def test_how_rows_were_packed_comes_back(
    tmp_path: Path, capture: Capture, manifest: Manifest
) -> None:
    packs = np.stack([np.zeros(capture.rows.n_rows), np.arange(capture.rows.n_rows)], 1).astype(int)
    save_capture(tmp_path / "packed", replace(capture, packs=packs), manifest)
    np.testing.assert_array_equal(load_capture(tmp_path / "packed")[0].packs, packs)
    with pytest.raises(CaptureError, match="two sequences lie in one place"):
        save_capture(tmp_path / "same", replace(capture, packs=packs * 0), manifest)


def test_what_is_saved_comes_back(folder: Path, capture: Capture, manifest: Manifest) -> None:
    loaded, read = load_capture(folder)
    assert read == manifest.model_copy(update={"arrays_sha256": read.arrays_sha256})
    assert read.arrays_sha256 == sha256_of(folder / "arrays.safetensors")
    for name in ("token_ids", "row_offsets", "prompt_lengths", "sampled"):
        np.testing.assert_array_equal(getattr(loaded.rows, name), getattr(capture.rows, name))
    for name in ("logp", "probe_positions", "probe_logp", "router_topk", "router_logits"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(capture, name))
    assert set(loaded.hidden) == {"model.norm", "model.norm:in"}
    np.testing.assert_array_equal(loaded.hidden["model.norm"], capture.hidden["model.norm"])
    assert loaded.weights == capture.weights
    assert loaded.token_text == {5: "a", 10: "<é>"}


def test_what_modules_said_may_stay_on_disk(
    tmp_path: Path, capture: Capture, manifest: Manifest
) -> None:
    save_capture(tmp_path / "whole", capture, manifest)
    assert capture.hidden
    without, _ = load_capture(tmp_path / "whole", modules=False)
    assert (without.hidden, without.router_logits) == ({}, None)
    np.testing.assert_array_equal(without.logp, capture.logp)
    np.testing.assert_array_equal(without.probe_logp, capture.probe_logp)


def test_the_arrays_have_the_types_that_other_tools_rely_on(folder: Path) -> None:
    types = {name: str(a.dtype) for name, a in load_file(folder / "arrays.safetensors").items()}
    assert types == {
        "token_ids": "int32", "row_offsets": "int64", "prompt_lengths": "int32",
        "sampled": "uint8", "logp": "float32", "probe_positions": "int64",
        "probe_logp": "float32", "router_topk": "int16", "router_logits": "float32",
        "hidden/model.norm": "float32", "hidden/model.norm:in": "float32",
    }  # fmt: skip


def draws() -> Draws:
    """Of two rows of three tokens, over a vocabulary of eleven."""
    rng = np.random.default_rng(0)
    gains = {name: rng.normal(size=(2, 3, len(f.values))) for name, f in FAMILIES.items()}
    entropy, variance = rng.random((2, 6), np.float32)
    return Draws(entropy, variance, gains, rng.random(11, np.float32))


def test_draws_come_back_as_they_were(tmp_path: Path, capture: Capture, manifest: Manifest) -> None:
    given = draws()
    save_capture(tmp_path / "drawn", replace(capture, draws=given), manifest)
    found = load_capture(tmp_path / "drawn")[0].draws
    assert found is not None
    for name in ("entropy", "variance", "expected_counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert found.gains.keys() == FAMILIES.keys()
    for name, gains in given.gains.items():
        np.testing.assert_array_equal(found.gains[name], gains)


@pytest.mark.parametrize(
    ("name", "said"),
    [("draws/variance", "lacks draws/variance"), ("draws/top_k", "top_k has shape .*256")],
)
def test_draws_of_which_something_is_missing_are_refused(
    tmp_path: Path, capture: Capture, manifest: Manifest, name: str, said: str
) -> None:
    save_capture(tmp_path / "drawn", replace(capture, draws=draws()), manifest)
    path = tmp_path / "drawn" / "arrays.safetensors"
    arrays = load_file(path)
    del arrays[name]
    save_file(arrays, path)
    with pytest.raises(CaptureError, match=said):
        load_capture(tmp_path / "drawn", verify=False)


def test_what_was_not_recorded_stays_absent(
    tmp_path: Path, capture: Capture, manifest: Manifest
) -> None:
    bare = Capture(capture.rows, capture.logp)
    save_capture(tmp_path / "bare", bare, manifest)
    loaded, _ = load_capture(tmp_path / "bare")
    assert loaded.probe_logp is None
    assert loaded.router_topk is None
    assert (loaded.hidden, loaded.weights, loaded.token_text) == ({}, {}, {})
    assert len(loaded.probe_positions) == 0


def test_sampled_marks_default_to_everything_after_the_prompt(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    del arrays["sampled"]
    save_file(arrays, folder / "arrays.safetensors")
    loaded, _ = load_capture(folder, verify=False)
    # Prompt lengths 2 and 1 of rows of 3 tokens.
    assert loaded.rows.sampled.tolist() == [False, False, True, False, True, True]


def test_one_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CaptureError, match="does not match its checksum"):
        load_capture(folder)


def test_a_file_cut_short_is_an_error_even_unverified(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CaptureError, match="cannot be read"):
        load_capture(folder, verify=False)


@pytest.mark.parametrize("name", ["token_ids", "row_offsets", "prompt_lengths", "logp"])
def test_a_missing_array_is_named(folder: Path, name: str) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    del arrays[name]
    save_file(arrays, folder / "arrays.safetensors")
    with pytest.raises(CaptureError, match=f"lacks {name}"):
        load_capture(folder, verify=False)


def test_arrays_that_do_not_fit_together_are_refused(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    arrays["logp"] = arrays["logp"][:-1]
    save_file(arrays, folder / "arrays.safetensors")
    with pytest.raises(CaptureError, match=r"logp has leading shape \(5,\), expected \(6,\)"):
        load_capture(folder, verify=False)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"schema_version": 2}, "schema_version"), ({"colour": "red"}, "colour")],
    ids=["version", "field"],
)
def test_a_manifest_of_another_version_is_refused(
    folder: Path, changes: dict[str, object], named: str
) -> None:
    rewrite_manifest(folder, **changes)
    with pytest.raises(CaptureError, match=named):
        load_capture(folder)


@pytest.mark.parametrize(
    "text", ['{"w": {"numel": 4.0, "sum": 0.1, "sum_sq": 1.5, "sum_abs": 2.0}}', '{"w":', "[]"]
)
def test_fingerprints_of_another_version_are_refused(folder: Path, text: str) -> None:
    (folder / "weights.json").write_text(text)
    with pytest.raises(CaptureError, match="another version's fingerprints"):
        load_capture(folder)
    (folder / "weights.json").unlink()
    assert load_capture(folder)[0].weights == {}


@pytest.mark.parametrize("file", ["manifest.json", "arrays.safetensors"])
def test_half_a_capture_is_none(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CaptureError, match=file):
        load_capture(folder)


def test_a_folder_is_never_overwritten(folder: Path, capture: Capture, manifest: Manifest) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(CaptureError, match="already exists"):
        save_capture(folder, capture, manifest)
    assert (folder / "manifest.json").read_bytes() == before


def test_nothing_is_written_of_a_capture_that_does_not_fit(
    tmp_path: Path, capture: Capture, manifest: Manifest
) -> None:
    with pytest.raises(CaptureError, match="logp has leading shape"):
        save_capture(tmp_path / "decode", replace(capture, logp=capture.logp[1:]), manifest)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_nothing_and_a_second_try_works(
    tmp_path: Path, capture: Capture, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_sync", full)
        with pytest.raises(OSError, match="No space"):
            save_capture(tmp_path / "decode", capture, manifest)
    assert list(tmp_path.iterdir()) == []
    save_capture(tmp_path / "decode", capture, manifest)
    assert load_capture(tmp_path / "decode")[1].id == "decode"


# Arrays and manifest are written, and the process is killed before the rename.
KILLED = """
import os, signal, sys
from pathlib import Path
from mismatch_lab.captures import store
source, target = Path(sys.argv[1]), Path(sys.argv[2])
store._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
store.save_capture(target, *store.load_capture(source))
"""


def test_a_process_killed_while_writing_leaves_no_capture(
    folder: Path, capture: Capture, manifest: Manifest
) -> None:
    target = folder.parent / "captures" / "prefill"
    command = [sys.executable, "-c", KILLED, str(folder), str(target)]
    root = Path(store.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not target.exists()
    (left,) = target.parent.iterdir()  # it did come as far as writing
    assert left.name.startswith(".prefill.")
    with pytest.raises(CaptureError, match="not a capture"):
        load_capture(target)
    save_capture(target, capture, manifest)
    assert load_capture(target)[1].id == "decode"
