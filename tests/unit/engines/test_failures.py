"""Errors that are an engine's own are told as its own; those of this program as ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab.engines.failures import in_words, runtime_error, whose
from mismatch_lab.processes.process import death
from mismatch_lab.schema import SideSpec

SPEC = SideSpec(side="infer", engine="vllm", model="some/model", dtype="bfloat16")


def raised_in(folder: Path, package: str, line: str) -> Exception:
    """The exception that a line of a module in `package` raises."""
    path = folder / package / "inside.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"def run():\n    {line}\n")
    space: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        space["run"]()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize(
    ("package", "program"),
    [("vllm/layers", "vLLM"), ("transformers/models", "transformers"), ("torch/nn", "")],
)
def test_the_innermost_frame_of_a_program_says_whose_it_is(
    tmp_path: Path, package: str, program: str
) -> None:
    assert whose(raised_in(tmp_path, package, "raise KeyError('layers.1')")) == program


def test_an_engines_failure_names_it_and_what_would_run(tmp_path: Path) -> None:
    error = raised_in(tmp_path, "vllm", "raise ValueError('Head dimension 48 is not supported.')")
    told = runtime_error(error, SPEC, "making capture decode")
    assert told.problem == (
        "vLLM fails on some/model in bfloat16 (infer, making capture decode): "
        "ValueError: Head dimension 48 is not supported."
    )
    assert "--engine hf" in told.hint


def test_what_fails_in_this_program_is_a_defect_of_it(tmp_path: Path) -> None:
    error = raised_in(tmp_path, "mismatch_lab/engines", "[][0]")
    told = runtime_error(error, SPEC, "starting")
    assert told.problem == (
        "A defect of mismatch-lab (vllm, starting): IndexError: list index out of range"
    )


def test_an_assertion_without_words_shows_its_line(tmp_path: Path) -> None:
    error = raised_in(tmp_path, "vllm", "assert 'sigmoid' == 'softmax'")
    assert in_words(error) == "AssertionError: assert 'sigmoid' == 'softmax'"


@pytest.mark.parametrize("code", [-11, 139])  # of the process itself, and of a launcher around it
def test_a_crash_in_native_code_is_the_engines(tmp_path: Path, code: int) -> None:
    log = tmp_path / "engine.log"
    log.write_text("!!!!!!! Segfault encountered !!!!!!!\n")
    told = death("engine", code, log)
    assert "engine process crashed in native code (SIGSEGV)" in told.problem
    assert "Segfault encountered" in told.problem
    assert "--engine hf" in told.hint
    assert str(log) in told.hint
