"""The trainer as FSDP users have it: what it computes in, and what its options do to a pass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mismatch_lab.captures.capture import Rows
from mismatch_lab.checkpoints.config import checkpoint_dir
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.fsdp import FsdpEngine
from mismatch_lab.engines.liger import apply_liger
from mismatch_lab.errors import InputError
from mismatch_lab.schema import SideSpec

LAYERS = 4
"""Of mini-gpt-oss."""
LENGTHS = (7, 5, 9)
OFFSETS = np.cumsum([0, *LENGTHS])
ROWS = Rows(
    np.arange(3, 3 + sum(LENGTHS), dtype=np.int32),
    OFFSETS.astype(np.int64),
    np.full(len(LENGTHS), 2, np.int32),
    np.concatenate([np.arange(n) >= 2 for n in LENGTHS]),
)


@contextmanager
def trainer(dtype: str = "float32", **args: Any) -> Iterator[FsdpEngine]:
    spec = SideSpec(
        side="train", engine="fsdp", model=str(checkpoint_dir()), dtype=dtype, args=args
    )
    engine = FsdpEngine(spec)
    yield engine
    engine.close()


def logp(engine: FsdpEngine, **request: Any) -> Any:
    return engine.score(ROWS, ScoreRequest(temperature=1.0, **request), lambda *_: None).logp


def test_an_update_is_scored_through_checkpointed_layers_and_with_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers.modeling_utils as transformers

    seen: list[bool] = []
    original = transformers.checkpoint

    def counted(function: Any, *args: Any, **kwargs: Any) -> Any:
        out = original(function, *args, **kwargs)
        seen.append(out.requires_grad)
        return out

    monkeypatch.setattr(transformers, "checkpoint", counted)
    with trainer(gradient_checkpointing=True, micro_batch=3) as engine:
        evaluated = logp(engine)
        assert seen == []  # without gradients there is nothing to keep
        trained = logp(engine, train_mode=True, routing=True)
    assert seen == [True] * LAYERS  # all rows are one micro-batch
    np.testing.assert_array_equal(trained, evaluated)


def test_master_weights_stay_in_float32_and_are_rounded_for_the_forward() -> None:
    computed = []
    with trainer("bfloat16", master_dtype="float32") as engine:
        model: Any = engine.scorer.parts.model
        projection = model.model.layers[0].self_attn.q_proj
        projection.register_forward_hook(lambda m, _, out: computed.append((m.weight.dtype, out)))
        held = projection.weight.dtype
        rounded = logp(engine)
        assert engine.options["master_dtype"] == "float32"
        assert engine.options["param_dtype"] == "bfloat16"
    assert held == torch.float32
    assert {(dtype, out.dtype) for dtype, out in computed} == {(torch.bfloat16, torch.bfloat16)}
    with trainer("bfloat16") as engine:
        np.testing.assert_array_equal(logp(engine), rounded)


@pytest.mark.parametrize(
    ("dtype", "asked", "on"),
    [("bfloat16", True, True), ("bfloat16", False, False), ("float32", True, False)],
)
def test_autocast_is_around_the_forward_in_half_precision(
    dtype: str, asked: bool, on: bool
) -> None:
    seen = []
    with trainer(dtype, autocast=asked) as engine:
        model: Any = engine.scorer.parts.model
        model.model.norm.register_forward_hook(
            lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
        )
        logp(engine)
    assert set(seen) == {on}


def test_what_transformers_chose_by_itself_is_recorded() -> None:
    with trainer() as engine:
        assert engine.options["attn_implementation"] == "eager"


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for Liger with kernels for `llama` alone; the models that it was given."""
    given: list[Any] = []
    patch = ModuleType("liger_kernel.transformers.monkey_patch")
    patch.__dict__.update(
        MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None},
        _apply_liger_kernel_to_instance=lambda model: given.append(model),
    )
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, patch.__name__, patch)
    monkeypatch.setattr("mismatch_lab.engines.liger.version", lambda name: "0.8.5")
    return given


def test_liger_says_nothing_of_models_that_it_does_not_know_so_we_do(liger: list[Any]) -> None:
    known = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    assert apply_liger(known) == "Liger 0.8.5"
    assert liger == [known]
    with pytest.raises(InputError, match=r"Liger 0\.8\.5 has no kernels for model type apertus"):
        apply_liger(SimpleNamespace(config=SimpleNamespace(model_type="apertus")))


def test_one_process_leaves_nothing_of_a_group_in_the_environment() -> None:
    """What runs after it in the program would take itself for a rank."""
    with trainer() as engine:
        assert engine.world == 1
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & os.environ.keys()


ON_TWO_RANKS = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from mismatch_lab.engines import torch_engine
from test_fsdp import logp, trainer

read = []
load = torch_engine.load_model
torch_engine.load_model = lambda *args: read.append(args) or load(*args)
with trainer() as engine:
    np.savez(f"{{sys.argv[1]}}/{{engine.rank}}.npz", logp=logp(engine), read=len(read),
             tensors=len(engine.fingerprint()))
os._exit(0)  # see `trainer.ranks.end`
"""


def test_of_two_ranks_one_reads_the_checkpoint(tmp_path: Path) -> None:
    with trainer() as engine:
        expected, tensors = logp(engine), len(engine.fingerprint())
    (tmp_path / "two.py").write_text(ON_TWO_RANKS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [sys.executable, *launch, tmp_path / "two.py", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    ranks = [np.load(tmp_path / f"{rank}.npz") for rank in (0, 1)]
    assert [int(rank["read"]) for rank in ranks] == [1, 0]
    assert [int(rank["tensors"]) for rank in ranks] == [tensors, 0]
    for rank in ranks:
        np.testing.assert_allclose(rank["logp"], expected, atol=1e-5)
