"""The command line: what goes to which stream, and with which exit code.

`main` is called in this process; where a side has to run, it does so in its own, as ever.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import mismatch_lab
from mismatch_lab import commands
from mismatch_lab.attribution.causes import CAUSES, load_cause
from mismatch_lab.attribution.causes.pairs import tells_apart
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.cli import main
from mismatch_lab.engines.base import ENGINES
from mismatch_lab.faults import FAULTS
from mismatch_lab.findings.edges import EDGES
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.schema import Findings, Manifest
from mismatch_lab.suites import probe_names

FAKE = ("diagnose", "fake", "--engine", "fake", "--trainer", "fake")
ROWS, SAMPLED = 8, 40


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """Runs `mismatch-lab WORDS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mismatch-lab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, *capfd.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def refused(outcome: Outcome, *said: str) -> None:
    """Exit code 2, the reasons on standard error, and nothing else."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "defect of mismatch-lab" not in outcome.err
    assert all(part in outcome.err for part in said), outcome.err


def save(
    folder: Path,
    shift: float = 0.0,
    token: int | None = None,
    space: str = "raw",
    first_token: int = 0,
    last: float | None = None,
) -> Path:
    """A capture of 8 rows of one prompt token and 40 sampled ones.

    Args:
        folder: where to.
        shift: added to every log-prob.
        token: what row 2 has at position 7 in place of its own id.
        space: of the log-probs.
        first_token: where ids begin to count.
        last: log-prob of the last token of every row, in place of its own.
    """
    ids = first_token + np.arange(ROWS * (SAMPLED + 1)).reshape(ROWS, -1)
    if token is not None:
        ids[2, 7] = token
    rows = Rows.build(ids.tolist(), [1] * ROWS, [[False] + [True] * SAMPLED] * ROWS)
    logp = -1.0 - np.tile(np.linspace(0, 1, SAMPLED + 1), ROWS) + shift
    logp[rows.row_offsets[:-1]] = np.nan
    if last is not None:
        logp[rows.row_offsets[1:] - 1] = last
    manifest = Manifest.model_validate(
        {
            "id": folder.name, "side": "infer", "engine": "fake", "engine_version": "", "model": "",
            "dtype": "float32", "sampling": None, "logprob_space": space, "patched": [],
            "host": "", "packages": {}, "rows": ROWS, "tokens": rows.n_tokens, "wall_s": 0.0,
            "arrays_sha256": "",
        }
    )  # fmt: skip
    save_capture(folder, Capture(rows, logp.astype(np.float32)), manifest)
    return folder


# ---- Wrong input to diagnose -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diagnose", "./nothing"], ["./nothing does not exist", "hub name"]),
        (["diagnose", "--probe", "quikc"], ["'quikc'", "quick, long-context"]),
        (["diagnose", "--probe", "mine.toml"], ["mine.toml does not exist"]),
        (["diagnose", "--dtype", "fp8"], ["'fp8'", "float32, bfloat16, float16"]),
        (["diagnose", "--engine", "vlm"], ["'vlm'", "fake, fsdp, hf, vllm"]),
        (["diagnose", "--trainer", "megatron"], ["'megatron'", "fake, fsdp, hf, vllm"]),
        (["diagnose", "--depth", "abyss"], ["'abyss'", "quick, standard, deep"]),
        (["diagnose", "--prompts", "mine.jsonl"], ["mine.jsonl does not exist"]),
        (["diagnose", "--engine-arg", "seed"], ["--engine-arg 'seed'", "NAME=VALUE"]),
        (["diagnose", "--temperature", "nan"], ["--temperature"]),
        (["diagnose", "--max-tokens", "0"], ["--max-tokens"]),
        (["diagnose", "--budget", "-1"], ["--budget -1", "seconds"]),
        (["diagnose", "--budget", "nan", "--dry-run"], ["--budget nan", "seconds"]),
        (["diagnose", "--budget", "much"], ["--budget", "number"]),
        (["diagnose", "--colour", "red"], ["--colour"]),
        ([*FAKE, "--engine-python", "/no/python"], ["/no/python does not exist"]),
        ([*FAKE, "--engine-plugin", "plugin.py"], ["'plugin.py'", "FILE.py:FUNC"]),
        ([*FAKE, "--trainer-plugin", "p.py:f"], ["p.py does not exist"]),
        (["analyse"], ["analyse"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_options_are_named(lab: Call, words: list[str], said: list[str]) -> None:
    refused(lab(*words), *said)


def test_a_function_that_the_plugin_lacks_is_named_at_once(lab: Call, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("def fail(model): ...\n")
    refused(lab(*FAKE, "--out", "run", "--trainer-plugin", "p.py:missing"), "p.py", "'missing'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine-arg", "sede=1"], ["no option 'sede'", "context_length", "seed"]),
        (["--trainer-arg", "noise=much"], ["noise", "float"]),
        (["--engine-plugin", "p.py:fail"], ["p.py:fail", "KeyError", "no such submodule"]),
        (["--engine-plugin", "broken.py:f"], ["broken.py", "ZeroDivisionError"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_a_side_refuses_is_said_with_its_log(
    lab: Call, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    (tmp_path / "p.py").write_text("def fail(model):\n    raise KeyError('no such submodule')\n")
    (tmp_path / "broken.py").write_text("def f(model): ...\n1 / 0\n")
    (tmp_path / "one.jsonl").write_text('{"text": "Hi"}\n')
    run = [*FAKE, "--out", "run", "--prompts", "one.jsonl", "--max-tokens", "2"]
    name = "trainer" if words[0].startswith("--trainer") else "engine"
    refused(lab(*run, *words), *said, f"Log: run/logs/{name}.log")
    assert not (tmp_path / "run" / "findings.json").exists()


# ---- The run folder ----------------------------------------------------------------------------


def test_a_folder_with_other_files_is_not_touched(lab: Call, tmp_path: Path) -> None:
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("all of it")
    for more in ([], ["--overwrite"]):
        refused(lab(*FAKE, "--out", "out", *more), "'thesis.tex'", "not a run folder")
    assert thesis.read_text() == "all of it"
    assert [p.name for p in thesis.parent.iterdir()] == ["thesis.tex"]


def test_a_finished_run_is_not_replaced_unasked(lab: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "findings.json").write_text("{}")
    refused(lab(*FAKE, "--out", "out"), "finished run", "--overwrite")
    assert (tmp_path / "out" / "findings.json").read_text() == "{}"


def test_a_file_is_no_folder(lab: Call, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    refused(lab(*FAKE, "--out", "out"), "out is a file")
    refused(lab(*FAKE, "--out", "out/run"), "out/run")


# ---- the plan ----------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_does_nothing(lab: Call, tmp_path: Path) -> None:
    found = lab(*FAKE, "--dry-run", "--budget", "90", "--out", "run")
    assert (found.code, found.err) == (0, "")
    assert "train_micro_batch" in found.out
    assert "renormalised over what top-k keeps" in found.out
    assert "at most 1 min 30 s" in found.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_machines(lab: Call, tmp_path: Path) -> None:
    found = lab(*FAKE, "--dry-run", "--json")
    assert (found.code, found.err) == (0, "")
    plan = json.loads(found.out)
    assert [suspect["suspect"] for suspect in plan["suspects"]] == ["train", "infer", "decode"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_a_plugin_that_is_not_there(lab: Call) -> None:
    refused(lab(*FAKE, "--dry-run", "--trainer-plugin", "p.py:f"), "p.py does not exist")


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
    refused(lab("compare", "a"), "argument", "train")


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


# ---- Help for people ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("engines", list(ENGINES)),
        ("probes", probe_names()),
        ("measures", list(EDGE_MEASURES)),
        ("causes", list(CAUSES)),
        ("faults", list(FAULTS)),
    ],
)
def test_list_names_everything(lab: Call, what: str, names: list[str]) -> None:
    found = lab("list", what)
    assert (found.code, found.err) == (0, "")
    assert [line.split()[0] for line in found.out.splitlines()] == names
    assert all(len(line.split()) > 1 for line in found.out.splitlines())


def test_list_knows_what_there_is_to_list(lab: Call) -> None:
    refused(lab("list", "unicorns"), "unicorns", "engines", "probes", "causes", "faults")


@pytest.mark.parametrize(
    "name",
    [*probe_names(), "abs_delta_mean", "kl_infer_train_k3", *EDGES, *ENGINES,
     "numerics-floor", "stale-graph", "sinks-dropped"],
)  # fmt: skip
def test_explain_knows_every_name(lab: Call, name: str) -> None:
    found = lab("explain", name)
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(name)
    assert len(found.out.split()) > 3


def test_explain_lists_what_it_knows(lab: Call) -> None:
    refused(lab("explain", "love"), "'love'", "quick", "ess", "decode_train", "fsdp")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("attention_sinks_dropped", "attention-sinks-dropped"), ("sinks", "attention-sinks-dropped"),
     ("retokenization", "retokenisation"), ("decode_prefil", "decode_prefill")],
)  # fmt: skip
def test_explain_suggests_what_comes_near(lab: Call, name: str, meant: str) -> None:
    refused(lab("explain", name), f"'{name}'", "Did you mean", meant)


def test_explain_says_all_there_is_of_a_cause(lab: Call) -> None:
    found = lab("explain", "logit-scale")
    said = " ".join(found.out.split())
    cause = load_cause("logit-scale")
    for part in (
        cause.title, cause.mechanism, cause.signature, cause.confirmation, cause.remedy,
        *cause.remedies, *cause.remedies.values(), *cause.sources, *cause.neighbours,
        tells_apart("logit-scale", "raw-logprobs-temperature"),
    ):  # fmt: skip
        assert part in said, part


def test_lists_keep_a_name_on_one_line_where_nobody_looks(
    lab: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = lab("list", "causes").out.splitlines()
    assert len(lines) == len(CAUSES)
    assert " ".join(lines[0].split()) == (
        "raw-logprobs-temperature semantics "
        "The engine's log-probs ignore the temperature it samples with"
    )


def test_doctor_says_what_would_run(lab: Call) -> None:
    found = lab("doctor")
    assert (found.code, found.err) == (0, "")
    assert f"package   numpy {np.__version__}" in found.out
    assert "fake: ready" in found.out
    assert all(f" {name}: " in found.out for name in ENGINES)
    assert ", ".join(probe_names()) in found.out


def test_version(lab: Call) -> None:
    assert lab("--version") == Outcome(0, f"mismatch-lab {mismatch_lab.__version__}\n", "")


def test_help_names_every_command(lab: Call) -> None:
    found = lab("--help")
    assert found.code == 0
    for command in ("diagnose", "capture", "compare", "report", "list", "explain", "doctor"):
        assert command in found.out


# ---- When things go wrong ----------------------------------------------------------------------


def test_debug_shows_where(lab: Call) -> None:
    found = lab("compare", "a", "b", "--debug")
    assert (found.code, found.out) == (2, "")  # 1 is for a gate that failed
    assert "Traceback" in found.err
    assert "load_manifest" in found.err
    assert "a is not a capture" in found.err


def test_a_defect_of_ours_is_said_to_be_one(lab: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("that should not happen")

    monkeypatch.setattr(commands, "run_compare", broken)
    found = lab("compare", "a", "b")
    assert (found.code, found.out) == (2, "")
    assert "RuntimeError: that should not happen" in found.err
    assert "--debug" in found.err
    assert "Traceback" not in found.err
    assert "Traceback" in lab("compare", "a", "b", "--debug").err


def test_an_interruption_is_130_and_says_so(lab: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run_compare", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    found = lab("compare", "a", "b")
    assert (found.code, found.out) == (130, "")
    assert "interrupted" in found.err


def test_as_a_program_of_its_own(tmp_path: Path) -> None:
    root = Path(mismatch_lab.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", "compare", "a", "b"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Outcome(ended.returncode, ended.stdout, ended.stderr), "a is not a capture")
