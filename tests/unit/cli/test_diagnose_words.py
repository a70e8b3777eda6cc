"""`diagnose`: wrong words, folders that are in use, and the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calls import FAKE, Call, refused

from mismatch_lab.cli import commands

# ---- Wrong input to diagnose -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diagnose", "./nothing"], ["./nothing does not exist", "hub name"]),
        (["diagnose", "--probe", "quikc"], ["'quikc'", "quick, long-context"]),
        (["diagnose", "--probe", "mine.toml"], ["mine.toml does not exist"]),
        (["diagnose", "--dtype", "fp8"], ["'fp8'", "float32, bfloat16, float16"]),
        (["diagnose", "--engine", "vlm"], ["'vlm'", "fsdp, function, hf, http, sglang"]),
        (["diagnose", "--rescore", "vllm"], ["--rescore scores the tokens of a record"]),
        (["diagnose", "--engine", "trl"], ["trl is a trainer"]),
        (["diagnose", "--trainer", "function"], ["--trainer FILE.py:FUNC"]),
        (["diagnose", "--trainer", "mine.py:load"], ["mine.py does not exist"]),
        (
            ["diagnose", "--trainer", "megatron"],
            ["'megatron'", "fsdp, function, hf, http, sglang"],
        ),
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
        ([*FAKE, "--engine-arg", "sede=1"], ["no option 'sede'", "mean seed", "context_length"]),
        ([*FAKE, "--trainer-arg", "noise=much"], ["noise", "float"]),
        (["diagnose", "--trainer-arg", "packed=true"], ["no option 'packed'", "mean packing"]),
        (["diagnose", "--trainer-arg", "packing=1"], ["packing", "bool"]),
        (["diagnose", "--trainer-arg", "param_dtype=fp8"], ["param_dtype", "'fp8'", "bfloat16"]),
        (["diagnose", "--probe", "temprature"], ["mean temperature?", "quick, long-context"]),
        (["diagnose", "--engine", "sglnag"], ["mean sglang?"]),
        (["train", "gsm8k", "--fault", "sinks-droped"], ["mean sinks-dropped", "list faults"]),
        (["train", "gsm8k", "--fix", "attention-sink"], ["mean attention-sinks?", "fp32-head"]),
        (["train", "gsm9k"], ["mean gsm8k?"]),
        (["train", "gsm8k", "--compare", "brokn"], ["mean broken?"]),
        (
            ["train", "gsm8k", "--set", "rollout.gruop=4"],
            ["rollout.gruop is no setting", "mean group?"],
        ),
        (["train", "gsm8k", "--set", "step=3"], ["step is no setting", "mean steps?"]),
        (["scorecard", "--subset", "sinks-droped", "--list"], ["mean sinks-dropped?"]),
        (["analyse"], ["analyse"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_options_are_named(lab: Call, words: list[str], said: list[str]) -> None:
    refused(lab(*words), *said)


@pytest.mark.parametrize("words", [["--dry-run"], []], ids=["dry", "run"])
def test_options_of_both_sides_are_checked_before_anything_starts(
    lab: Call, tmp_path: Path, words: list[str]
) -> None:
    refused(
        lab("diagnose", "--trainer-arg", "packed=true", *words),
        "no option 'packed'",
        "mean packing",
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.vllm
def test_arguments_of_vllm_are_known_without_starting_it(lab: Call) -> None:
    wrong = ("diagnose", "--dry-run", "--engine-arg", "max_model_length=9")
    refused(lab(*wrong), "no engine argument 'max_model_length'", "mean max_model_len")
    ours = ("diagnose", "--dry-run", "--engine-arg", "dtype=float32")
    refused(lab(*ours), "--engine-arg dtype is set by an option of its own")


def test_a_function_that_the_plugin_lacks_is_named_at_once(lab: Call, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("def fail(model): ...\n")
    refused(lab(*FAKE, "--out", "run", "--trainer-plugin", "p.py:missing"), "p.py", "'missing'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
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


def test_a_dry_run_says_what_is_not_installed(lab: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda name: None if name == "numpy" else name)
    found = lab(*FAKE, "--dry-run")
    assert found.code == 0
    assert "fake is not installed here" in found.err
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    said = lab("diagnose", "--engine", "hf", "--trainer", "hf", "--dry-run").err
    assert "hf is not installed here: pip install 'mismatch-lab[train]'" in said


def test_a_misspelt_fault_does_not_list_them_all(lab: Call) -> None:
    said = lab("train", "gsm8k", "--fault", "sinks-droped").err
    assert "yarn-mscale" not in said
    assert len(said.split()) < 20


def test_a_dry_run_for_machines(lab: Call, tmp_path: Path) -> None:
    found = lab(*FAKE, "--dry-run", "--json")
    assert (found.code, found.err) == (0, "")
    plan = json.loads(found.out)
    assert [suspect["suspect"] for suspect in plan["suspects"]] == ["train", "infer", "decode"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_a_plugin_that_is_not_there(lab: Call) -> None:
    refused(lab(*FAKE, "--dry-run", "--trainer-plugin", "p.py:f"), "p.py does not exist")
