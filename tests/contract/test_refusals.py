"""What a user gets wrong is refused by every engine with an error that names it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.engines.interpreters import interpreter

ENGINES = (
    *("fake", "hf", "fsdp", "definition"),
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("sglang", marks=pytest.mark.sglang),
)
TYPED = {"vllm": {"max_model_len": "long"}, "sglang": {"context_length": "long"}}
"""An option of a wrong type; of the others micro_batch."""
TRY_SPECS = Path(__file__).with_name("try_specs.py")
Outcomes = dict[str, dict[str, str]]
BROKEN_IMPORT = "import a_module_that_is_not_there\n\ndef patch(model): ...\n"

# What is wrong -> words of the error's problem, with {folder} and {option} filled in.
REFUSED = {
    "unknown option": ("{option}",),
    "option of a wrong type": ("{typed}",),
    "missing folder": ("{folder}/nowhere", "does not exist"),
    "folder without config": ("{folder}/empty", "config.json"),
    "plugin is no reference": ("patch.py", "FILE.py:FUNC"),
    "plugin file missing": ("{folder}/nowhere.py", "does not exist"),
    "plugin function missing": ("plugin.py", "'no_such_function'"),
    "plugin fails to import": ("broken.py", "a_module_that_is_not_there"),
    "plugin raises": ("plugin.py:fail", "KeyError", "no such submodule"),
    "plugin returns a number": ("plugin.py:number", "returned a int"),
}
KEPT = ("plugin.py:wrapped", "returned a Sequential", "the module that it loaded")
"""Of an engine that runs the module that it has, whatever a plugin returns."""
ARCHITECTURES = {
    "unknown architecture": ("{folder}/unknown", "no-such-model"),
    "encoder-decoder": ("{folder}/t5",),
}


def wrong_specs(engine: str, model: str, folder: Path, plugin: Path) -> dict[str, dict[str, Any]]:
    """One spec per thing that can be wrong; the rest of it is right."""
    right = {"side": "infer", "engine": engine, "model": model, "dtype": "float32"}
    typed = TYPED.get(engine, {"micro_batch": "four"})
    changes: dict[str, dict[str, Any]] = {
        "unknown option": {"args": {"no_such_option": 1}},
        "option of a wrong type": {"args": typed},
        "missing folder": {"model": f"{folder}/nowhere"},
        "folder without config": {"model": f"{folder}/empty"},
        "plugin is no reference": {"plugin": "patch.py"},
        "plugin file missing": {"plugin": f"{folder}/nowhere.py:patch"},
        "plugin function missing": {"plugin": f"{plugin}:no_such_function"},
        "plugin fails to import": {"plugin": f"{folder}/broken.py:patch"},
        "plugin raises": {"plugin": f"{plugin}:fail"},
        "plugin returns a number": {"plugin": f"{plugin}:number"},
    }
    if engine in TYPED:
        changes["plugin returns another module"] = {"plugin": f"{plugin}:wrapped"}
    if engine != "fake":  # its model is drawn from the name
        changes["unknown architecture"] = {"model": f"{folder}/unknown"}
        changes["encoder-decoder"] = {"model": f"{folder}/t5"}
    return {what: {**right, **change} for what, change in changes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lab: Any) -> Path:
    """Model folders that are none, and a plugin that does not import."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "broken.py").write_text(BROKEN_IMPORT)
    for name, config in (
        ("empty", None),
        ("unknown", {"model_type": "no-such-model", "architectures": ["NoSuchForCausalLM"]}),
        ("t5", {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}),
    ):
        (folder / name).mkdir()
        if config is not None:
            (folder / name / "config.json").write_text(json.dumps(config))
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(Path(lab.model) / file, folder / name)
    return folder


def _try_in_one_process(engines: tuple[str, ...], lab: Any, folder: Path) -> dict[str, Outcomes]:
    specs = {
        engine: wrong_specs(engine, lab.model_of(engine), folder, lab.plugin) for engine in engines
    }
    task = folder / f"{engines[0]}.json"
    task.write_text(json.dumps([spec for wrong in specs.values() for spec in wrong.values()]))
    python = interpreter("sglang", None) if "sglang" in engines else sys.executable
    command = [python, str(TRY_SPECS), str(task)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    lines = [line for line in child.stdout.splitlines() if line.startswith("OUTCOMES ")]
    assert lines, child.stderr[-3000:]
    outcomes = iter(json.loads(lines[-1].removeprefix("OUTCOMES ")))
    return {engine: {what: next(outcomes) for what in wrong} for engine, wrong in specs.items()}


@pytest.fixture(scope="module")
def refusals(lab: Any, folder: Path) -> Callable[[str], Outcomes]:
    """How an engine refused each wrong spec; vLLM and SGLang in processes of their own."""
    run = cache(lambda engines: _try_in_one_process(engines, lab, folder))
    others = ("fake", "hf", "fsdp", "definition")
    return lambda engine: run((engine,) if engine in TYPED else others)[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", REFUSED)
def test_the_error_names_what_is_wrong(
    refusals: Callable[[str], Outcomes], folder: Path, engine: str, what: str
) -> None:
    error = refusals(engine)[what]
    assert error["kind"] == "InputError", error
    (typed,) = TYPED.get(engine, {"micro_batch": ""})
    for word in REFUSED[what]:
        expected = word.format(folder=folder, option="no_such_option", typed=typed)
        assert expected in error["problem"], error


@pytest.mark.parametrize("engine", ENGINES[1:])  # the fake's model is drawn from the name
@pytest.mark.parametrize("what", ARCHITECTURES)
def test_an_architecture_it_cannot_run_is_named(
    refusals: Callable[[str], Outcomes], folder: Path, engine: str, what: str
) -> None:
    error = refusals(engine)[what]
    # vLLM tries transformers' code for what it does not know, and fails while it starts.
    assert error["kind"] in ("InputError", "EngineError", "NotDefinedError"), error
    for word in ARCHITECTURES[what]:
        assert word.format(folder=folder) in error["problem"], error


@pytest.mark.parametrize("engine", ENGINES[-2:])
def test_an_engine_with_processes_of_its_own_refuses_another_module_than_its_own(
    refusals: Callable[[str], Outcomes], engine: str
) -> None:
    error = refusals(engine)["plugin returns another module"]
    assert error["kind"] == "InputError", error
    for word in KEPT:
        assert word in error["problem"], error


def test_a_prompt_longer_than_the_context_is_named_with_its_length_and_the_limit(
    scorer: Any,
) -> None:
    error = scorer.ended_with
    assert type(error).__name__ == "InputError"
    prompt = 0 if scorer.engine in ("fsdp", "definition") else 1
    assert f"Prompt {prompt} has 2000 tokens" in error.problem
    assert "context of 1024 tokens" in error.problem
