"""Engines in another interpreter: what it lacks is said, with the line that installs it.

The interpreter is a venv that has this one's packages, without those that the test takes away.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.engines.jobs import GenerateJob, ScoreJob, Stage
from mismatch_lab.schema import Prompt, Sampling, SideSpec

Without = Callable[..., str]


@pytest.fixture(scope="module")
def python_without(tmp_path_factory: pytest.TempPathFactory) -> Without:
    """Make an interpreter without the packages whose names begin with those given."""

    def make(*missing: str) -> str:
        venv = tmp_path_factory.mktemp("venv") / "env"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        (target,) = venv.glob("lib/python3.*/site-packages")
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not entry.name.lower().startswith(missing):
                (target / entry.name).symlink_to(entry)
        return str(venv / "bin" / "python")

    return make


def side(engine: str, python: str, lab: Any) -> SideSpec:
    model = "fake" if engine == "fake" else lab.model
    return SideSpec(side="infer", engine=engine, model=model, dtype="float32", python=python)


def generate(name: str) -> GenerateJob:
    prompts = [Prompt(id="p", text="2 + 2 ="), Prompt(id="q", text="1 + 2 =")]
    return GenerateJob(id=name, prompts=prompts, sampling=Sampling(max_tokens=4))


def test_an_interpreter_without_vllm_is_told_how_to_install_it(
    lab: Any, python_without: Without
) -> None:
    spec = side("vllm", python_without("vllm"), lab)
    ended = lab.run("no-vllm", Stage(spec=spec, jobs=[generate("no-vllm")])).ended_with
    assert type(ended).__name__ == "MissingDependencyError"
    assert "vLLM is not installed" in ended.problem
    assert "pip install 'mismatch-lab[vllm]'" in ended.hint
    assert "--engine-python" in ended.hint


@pytest.mark.parametrize("engine", ["hf", "fsdp"])
@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_an_interpreter_without_torch_or_transformers_is_told_too(
    lab: Any, python_without: Without, engine: str, missing: str
) -> None:
    spec = side(engine, python_without(missing), lab)
    ended = lab.run(f"no-{missing}", Stage(spec=spec, jobs=[generate("none")])).ended_with
    assert type(ended).__name__ == "MissingDependencyError"
    assert missing in ended.problem
    assert "pip install 'mismatch-lab[train]'" in ended.hint


def test_the_fake_engine_needs_neither(lab: Any, python_without: Without) -> None:
    spec = side("fake", python_without("torch", "transformers", "vllm"), lab)
    score = ScoreJob(id="fake-bare-score", source="fake-bare", probes=True, taps=True, routing=True)
    ran = lab.run("fake-bare", Stage(spec=spec, jobs=[generate("fake-bare"), score]))
    assert ran.ended_with is None
    assert ran.capture("bare-score").logp.shape == ran.capture("bare").logp.shape


def test_an_interpreter_that_is_not_there_is_named(lab: Any) -> None:
    spec = side("fake", "/nowhere/python", lab)
    ended = lab.run("no-python", Stage(spec=spec, jobs=[generate("never")])).ended_with
    assert type(ended).__name__ == "InputError"
    assert "/nowhere/python" in ended.problem
