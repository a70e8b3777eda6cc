"""`diagnose` from end to end with the fake engine: through the program, killed and run again."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Lab, wait_for

from mismatch_lab.captures.store import load_capture
from mismatch_lab.cli.commands import load_run
from mismatch_lab.errors import InputError
from mismatch_lab.findings.build import load_captures
from mismatch_lab.report.numbers import seconds
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings

TIMES = re.compile(r"<details><summary>Time taken.*?</details>", re.DOTALL)
FAKE = ("fake", "--dtype", "float32")
SIDES = ("--engine", "fake", "--trainer", "fake")


def captured(out: Path) -> set[str]:
    """Names of the whole captures of a run, each read and checked against its checksum."""
    return set(load_captures(out))


def test_from_the_prompt_to_the_report_and_the_same_by_hand(
    lab: Lab, probe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("diagnose", *FAKE, *SIDES, "--probe", probe, "--out", out)
    done = lab.call(*words, "--json")
    assert done.returncode == 0, done.stderr
    printed = Findings.model_validate_json(done.stdout)  # and nothing else is printed
    assert printed.verdict.status == "match"
    assert "captured decode" in done.stderr

    assert json.loads((out / "findings.json").read_text()) == json.loads(done.stdout)
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock", "captures", "findings.json", "logs", "report.html", "run.json",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "logs").iterdir()) == [
        "engine.log", "reference.log", "trainer.log",
    ]  # fmt: skip
    assert load_run(out).provenance.command[1:] == [str(word) for word in (*words, "--json")]
    assert captured(out) == {
        "decode", "prefill", "prefill_repeat", "train", "train_repeat", "train_micro_batch",
        "train_mode", "ref", "floor",
    }  # fmt: skip

    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    again = lab.call("report", out)
    assert again.returncode == 0, again.stderr
    assert "report.html" in again.stdout
    rebuilt = (out / "report.html").read_text()
    # The first page could not yet say how long it took to write.
    assert TIMES.sub("", rebuilt) == TIMES.sub("", page) != page
    stages = ("engine", "trainer", "reference", "measure", "attribute", "report")
    total_s = sum(printed.timings_s[stage] for stage in stages)
    assert f"Time taken ({seconds(total_s)})" in rebuilt

    _by_hand(lab, probe, tmp_path, printed)


def _by_hand(lab: Lab, probe: Path, folder: Path, whole: Findings) -> None:
    """Sample with one command, score with another, compare with a third."""
    infer, train = folder / "infer", folder / "train"
    asked = ("capture", *FAKE, "--engine", "fake")
    for words in (("--probe", probe, "--out", infer), ("--score", infer, "--out", train)):
        done = lab.call(*asked, *words)
        assert done.returncode == 0, done.stderr
    assert (load_capture(infer)[1].side, load_capture(train)[1].side) == ("infer", "train")
    compared = Findings.model_validate_json(lab.call("compare", infer, train, "--json").stdout)
    edge = {"decode_train": whole.edges["decode_train"]}
    alone = whole.model_copy(update={"edges": edge})
    assert (
        json.loads(compared.model_dump_json())["edges"]
        == json.loads(alone.model_dump_json())["edges"]
    )


def in_the_middle(lab: Lab, out: Path) -> Callable[[], bool]:
    """The engine has sampled and its process goes on."""
    return lambda: (out / "captures" / "decode").is_dir() and len(lab.alive()) >= 2


def test_a_killed_run_leaves_nothing_half_done_and_runs_again(
    lab: Lab, probe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("diagnose", *FAKE, *SIDES, "--probe", probe, "--out", out)
    with lab.start(*words) as process:
        wait_for(in_the_middle(lab, out), "the first capture")
        _refuses_a_second(probe, out)
        process.kill()
        process.wait()
        wait_for(lambda: not lab.alive(), "the engine's process to end with its parent")
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "decode" in captured(out)  # and all that are there are whole
    assert not (out / "findings.json").exists()
    with pytest.raises(InputError, match="did not finish"):
        load_run(out)
    # As if it had been killed while writing: neither is taken for anything.
    (out / "captures" / ".train.x.partial").mkdir(exist_ok=True)
    (out / "findings.json.tmp").write_text("{")

    again = lab.call(*words)
    assert again.returncode == 0, again.stderr
    assert "MATCH" in again.stdout
    assert f"report: {out / 'report.html'}" in again.stdout
    assert not [p for p in out.rglob("*") if p.name.endswith((".partial", ".tmp"))]
    assert len(captured(out)) == 9
    assert load_run(out).probe.name == "sums"


def _refuses_a_second(probe: Path, out: Path) -> None:
    """While it works, its folder is its own, --overwrite or not."""
    asked = DiagnoseRequest(model="fake", probe=str(probe), engine="fake", trainer="fake")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"Another mismatch-lab is writing to {out}"):
            diagnose(build_run(asked), out, overwrite, lambda event: None)
    assert "decode" in captured(out)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_an_interrupted_run_ends_its_processes_and_says_so(
    lab: Lab, probe: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    with lab.start("diagnose", *FAKE, *SIDES, "--probe", probe, "--out", out) as process:
        wait_for(in_the_middle(lab, out), "the first capture")
        os.kill(process.pid, how)
        printed, said = process.communicate()
    assert process.returncode == 130, said
    assert lab.alive() == []  # none is left even for a moment
    assert "interrupted" in said
    assert "Traceback" not in said
    assert printed == ""
    assert "decode" in captured(out)
    assert not (out / "findings.json").exists()


def test_a_worker_that_is_killed_is_an_error_with_its_log(
    lab: Lab, probe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with lab.start("diagnose", *FAKE, *SIDES, "--probe", probe, "--out", out) as process:
        log = out / "logs" / "engine.log"
        wait_for(lambda: log.is_file() and len(lab.alive()) >= 2, "the engine's process")
        (worker,) = set(lab.alive()) - {process.pid}
        os.kill(worker, signal.SIGKILL)
        printed, said = process.communicate()
    assert (process.returncode, printed) == (2, "")
    assert "engine process was killed" in said
    assert str(log) in said
