"""`compare`, `report` and `capture`: answers, and what is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from calls import ROWS, SAMPLED, Call, refused, save

from mismatch_lab.schema import Findings

# ---- compare -----------------------------------------------------------------------------------


def test_compare_prints_the_answer(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", shift=-0.25)
    found = lab("compare", a, b)
    assert (found.code, found.err) == (0, "")
    assert "MISMATCH" in found.out
    assert "0.25" in found.out
    assert f"{ROWS * SAMPLED} tokens" in found.out
    assert "next:" in found.out


def test_compare_prints_findings_for_machines(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", shift=-0.25)
    found = lab("compare", a, b, "--json")
    assert (found.code, found.err) == (0, "")
    measured = Findings.model_validate_json(found.out)
    assert measured.verdict.status == "mismatch"
    assert measured.edges["decode_train"]["mean_delta"].value == pytest.approx(-0.25, rel=1e-6)
    assert json.loads(found.out)["noise_floor"] is None


def test_compare_of_a_capture_with_itself_is_no_measurement(lab: Call, tmp_path: Path) -> None:
    a = save(tmp_path / "a")
    verdict = json.loads(lab("compare", a, a, "--json").out)["verdict"]
    assert verdict["status"] == "error"
    assert "to the last bit" in verdict["headline"]


def test_the_next_command_is_a_whole_one(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", shift=-0.25)
    for folder, model, engine in ((a, "my model", "vllm"), (b, "my model", "fsdp")):
        manifest = json.loads((folder / "manifest.json").read_text())
        changed = manifest | {"model": model, "engine": engine, "dtype": "bfloat16"}
        (folder / "manifest.json").write_text(json.dumps(changed))
    assert (
        "next:   mismatch-lab diagnose 'my model' --engine vllm --trainer fsdp --dtype bfloat16 "
        "--depth standard\n"
    ) in lab("compare", a, b).out


def test_without_a_model_the_same_is_held_against_a_checkpoint(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", last=-9999.0)
    next_ = "next:   mismatch-lab diagnose CHECKPOINT --captures"
    assert f"{next_} {a} --captures {b}\n" in lab("compare", a, b).out
    assert "next:   mismatch-lab diagnose CHECKPOINT --depth standard\n" in lab("compare", a, a).out


def test_compare_notes_raw_against_processed(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", space="processed")
    notes = json.loads(lab("compare", a, b, "--json").out)["notes"]
    assert any("raw" in note and "processed" in note for note in notes)


def test_compare_of_text_encoded_again_names_it(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", token=999)
    found = lab("compare", a, b)
    assert (found.code, found.err) == (0, "")
    assert "different token ids in 1 of 8 rows" in found.out
    assert "retokenisation" in found.out
    verdict = json.loads(lab("compare", a, b, "--json").out)["verdict"]
    # Rows are 41 tokens long, the first of them the prompt: position 7 of row 2 is 2 * 41 + 7 = 89,
    # and the sixth of the answer.
    first = verdict["causes"][0]["evidence"][1]
    assert first["value"] == 6
    assert "89 in the engine's and 999 in the trainer's" in first["observation"]


def test_compare_of_other_conversations_names_the_first_token(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", first_token=5000)
    refused(lab("compare", a, b), "Row 0, position 0", "0 in", "5000 in", str(a), str(b))


def test_compare_names_what_log_probs_give_away(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", last=-9999.0)
    found = json.loads(lab("compare", a, b, "--json").out)
    assert [cause["id"] for cause in found["verdict"]["causes"]] == ["terminal-token"]
    assert any("reference" in note for note in found["notes"])


def test_compare_of_a_damaged_capture(lab: Call, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b")
    arrays = b / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    refused(lab("compare", a, b), str(arrays), "checksum")
    refused(lab("compare", b, a, "--json"), str(arrays), "checksum")


@pytest.mark.parametrize("file", ["manifest.json", "arrays.safetensors"])
def test_compare_of_half_a_capture(lab: Call, tmp_path: Path, file: str) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b")
    (b / file).unlink()
    refused(lab("compare", a, b), str(b), file)


def test_compare_of_nothing(lab: Call, tmp_path: Path) -> None:
    refused(lab("compare", "a", save(tmp_path / "b")), "a is not a capture")
    refused(lab("compare", "a"), "nothing to be compared with", "trainer")


def test_compare_of_a_manifest_of_another_version(lab: Call, tmp_path: Path) -> None:
    a = save(tmp_path / "a")
    manifest = json.loads((a / "manifest.json").read_text())
    (a / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
    refused(lab("compare", a, a), "schema_version")


# ---- report and capture ------------------------------------------------------------------------


def test_report_wants_a_finished_run(lab: Call, tmp_path: Path) -> None:
    refused(lab("report", "nothing"), "nothing is not a run folder", "run.json")
    (tmp_path / "run").mkdir()
    for content in ("{", '{"id": 3}', "\ud800"):
        (tmp_path / "run" / "run.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        (tmp_path / "run" / "findings.json").unlink(missing_ok=True)
        refused(lab("report", "run"), "run did not finish")
        (tmp_path / "run" / "findings.json").write_text("{}")
        refused(lab("report", "run"), "run/run.json")


@pytest.mark.parametrize(
    ("file", "said"),
    [("train.json", "--compare"), ("comparison.json", "comparison.html"),
     ("manifest.json", "mismatch-lab compare"), ("notes.txt", "mismatch-lab diagnose")],
)  # fmt: skip
def test_report_says_what_another_folder_is(
    lab: Call, tmp_path: Path, file: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / file).write_text("{}")
    refused(lab("report", "folder"), "folder is not a run folder", said)


def test_capture_does_not_overwrite(lab: Call, tmp_path: Path) -> None:
    a = save(tmp_path / "a")
    refused(lab("capture", "fake", "--engine", "fake", "--out", a), "already exists")
    shutil.rmtree(a)
    refused(lab("capture", "fake", "--engine", "fake", "--out", "x", "--score", a), "not a capture")
    refused(lab("capture", "fake", "--engine", "vlm", "--out", "x"), "'vlm'")


# ---- the report of a comparison ------------------------------------------------------------------


def rollouts(path: Path) -> Path:
    """Four rows of twelve sampled tokens, whose log-probs differ by 1/8 nat."""
    ids, at = np.arange(52).reshape(4, 13), np.arange(52).reshape(4, 13) / 64
    np.savez(path, token_ids=ids, mask=ids % 13 > 0, logp_infer=-1 - at, logp_train=-1.125 - at)
    return path


def test_compare_writes_the_report_where_it_is_told(lab: Call, tmp_path: Path) -> None:
    a, b, out = save(tmp_path / "a"), save(tmp_path / "b", last=-9999.0), tmp_path / "out"
    found = lab("compare", a, b, "--out", out)
    assert (found.code, found.err) == (0, "")
    assert f"report: {out / 'report.html'}" in found.out
    findings = json.loads((out / "findings.json").read_text())
    assert findings == json.loads(lab("compare", a, b, "--json").out)
    assert "terminal-token" in (out / "report.html").read_text(encoding="utf-8")
    refused(lab("compare", a, b, "--out", out), "holds a finished run")
    assert lab("compare", a, b, "--out", out, "--overwrite").code == 0
    refused(lab("compare", a, b, "--out", a), "is where the record lies")
    assert lab("compare", a, b, "--out", tmp_path / "a" / "in").code == 2


def test_a_comparisons_report_is_written_anew(lab: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lab("compare", rollouts(tmp_path / "r.npz"), "--out", out).code == 0
    first = (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    assert lab("report", out).code == 0
    assert (out / "report.html").read_text(encoding="utf-8") == first
    refused(lab("report", out, "--out", tmp_path / "other"), "--out is of a record")


def named(record: str, folder: Path) -> list[Path]:
    """A record as a command is given it."""
    if record == "arrays":
        return [rollouts(folder / "r.npz")]
    sides = [save(folder / "rec" / "infer"), save(folder / "rec" / "train", last=-9999.0)]
    return sides if record == "captures" else [folder / "rec"]


@pytest.mark.parametrize("record", ["arrays", "folder", "captures"])
def test_report_of_a_record(lab: Call, tmp_path: Path, record: str) -> None:
    found = lab("report", *named(record, tmp_path), "--out", tmp_path / "out")
    assert (found.code, found.err) == (0, "")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<!doctype html>" in page
    # Every log-prob of the arrays is 1/8 nat lower in the trainer.
    assert ("−0.125" in page) == (record == "arrays")
