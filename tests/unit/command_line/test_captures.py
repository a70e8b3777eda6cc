"""`compare`, `report` and `capture`: answers, and what is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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


def test_compare_of_a_capture_with_itself_is_a_match(lab: Call, tmp_path: Path) -> None:
    a = save(tmp_path / "a")
    assert json.loads(lab("compare", a, a, "--json").out)["verdict"]["status"] == "match"


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


def test_capture_does_not_overwrite(lab: Call, tmp_path: Path) -> None:
    a = save(tmp_path / "a")
    refused(lab("capture", "fake", "--engine", "fake", "--out", a), "already exists")
    shutil.rmtree(a)
    refused(lab("capture", "fake", "--engine", "fake", "--out", "x", "--score", a), "not a capture")
    refused(lab("capture", "fake", "--engine", "vlm", "--out", "x"), "'vlm'")
