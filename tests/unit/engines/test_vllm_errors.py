"""What vLLM raises while it starts, as an error that says what to do."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from mismatch_lab.captures.capture import Rows
from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.vllm import VllmEngine, _start_error
from mismatch_lab.errors import EngineError, InputError, MismatchLabError
from mismatch_lab.schema import Alteration, SideSpec


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("cannot allocate"),
        ValueError("No available memory for the cache blocks."),
        RuntimeError("first line\nCUDA out of memory. Tried to allocate 2.00 GiB"),
        ValueError("16.0 GiB KV cache is needed, which is larger than the available KV cache"),
    ],
)
def test_out_of_memory_names_the_knobs(error: Exception) -> None:
    told = _start_error("big-model", error)
    assert isinstance(told, EngineError)
    assert "ran out of memory with big-model" in told.problem
    assert str(error).splitlines()[-1] in told.problem
    assert "max_model_len" in told.hint
    assert "VLLM_CPU_KVCACHE_SPACE" in told.hint


@pytest.mark.parametrize(
    "request_",
    [
        ScoreRequest(train_mode=True),
        ScoreRequest(replay={"model.norm:in": np.zeros((1, 2))}),
        ScoreRequest(alter=(Alteration(name="drop_sinks"),)),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_runs(request_: ScoreRequest) -> None:
    rows = Rows.build([[1, 2]], [1], [[False, True]])
    engine = VllmEngine.__new__(VllmEngine)  # nothing of it may be touched
    with pytest.raises(InputError, match="be altered for one job, nor run in training"):
        engine.score(rows, request_, lambda _done, _total: None)


def test_an_unsupported_architecture_is_the_inputs_fault() -> None:
    error = ValueError("Model architectures ['Odd'] are not supported for now.")
    told = _start_error("odd-model", error)
    assert isinstance(told, InputError)
    assert "odd-model" in told.problem
    assert "['Odd']" in told.problem


def test_a_refused_argument_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"max_num_seqs": "many"})
    told = _start_error("model", caught.value)
    assert isinstance(told, InputError)
    assert "max_num_seqs" in told.problem
    assert "https://" not in told.problem


def test_anything_else_keeps_its_class_and_last_line() -> None:
    told = _start_error("model", RuntimeError("a\nb\nthe reason"))
    assert isinstance(told, MismatchLabError)
    assert told.problem == "vLLM could not start with model: RuntimeError: the reason"
    assert "--engine hf" in told.hint


@pytest.mark.vllm
def test_a_plugin_cannot_reach_a_model_in_several_processes() -> None:
    spec = SideSpec(
        side="infer",
        engine="vllm",
        model=str(resolve_model_path(EMBEDDED)),
        dtype="float32",
        args={"tensor_parallel_size": 2},
        plugin="examples/plugins.py:nudge_experts",
    )
    with pytest.raises(InputError, match="several processes"):
        VllmEngine(spec)
