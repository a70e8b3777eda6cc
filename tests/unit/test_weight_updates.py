"""`--weights-before` and `--weight-update`: what they accept, and what they add to the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.errors import InputError
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Depth, RunSpec

Q, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"


def checkpoint(folder: Path, **changed: float) -> str:
    """Two tensors of ones, or of what `q` and `norm` say."""
    folder.mkdir()
    (folder / "config.json").write_text('{"dtype": "float32"}')
    values = {"q": 1.0, "norm": 1.0} | changed
    tensors = {
        Q: np.full((2, 2), values["q"], np.float32),
        NORM: np.full(2, values["norm"], np.float32),
    }
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def before(tmp_path: Path) -> str:
    return checkpoint(tmp_path / "before")


@pytest.fixture
def after(tmp_path: Path) -> str:
    """Only the projection differs."""
    return checkpoint(tmp_path / "after", q=2.0)


def spec(after: str, before: str | None, depth: Depth = "standard", **more: str) -> RunSpec:
    options = {"engine": "vllm", "trainer": "hf"} | more
    return build_run(DiagnoseRequest(model=after, depth=depth, weights_before=before, **options))  # type: ignore[arg-type]


def altered(run: RunSpec) -> dict[str, tuple[str, ...]]:
    """Scoring jobs with old weights: id -> tensors that are old."""
    jobs = [job for _, task in plan_tasks(run, "c") for stage in task.stages for job in stage.jobs]
    found = {job.id: job.alter for job in jobs if isinstance(job, ScoreJob) and job.alter}
    assert all(len(alter) == 1 and alter[0].name == "weights_from" for alter in found.values())
    return {name: alter[0].tensors or () for name, alter in found.items()}


def test_without_old_weights_nothing_is_altered(after: str) -> None:
    run = spec(after, None)
    assert altered(run) == {}
    assert (run.infer.weights_before, run.infer.weight_update) == (None, None)


def test_replays_with_what_changed_and_nothing_else(before: str, after: str) -> None:
    assert altered(spec(after, before)) == {"old": (Q,), "old_on_infer.0": (Q,)}
    assert altered(spec(after, before, "quick")) == {"old": (Q,)}
    assert altered(spec(after, after)) == {}, "an update that changed nothing"


def test_only_the_engine_is_updated(before: str, after: str) -> None:
    run = spec(after, before, weight_update="weights_iterator")
    assert (run.infer.weights_before, run.infer.weight_update) == (before, "weights_iterator")
    assert {side.model for side in (run.infer, run.train, run.ref)} == {after}
    assert run.train.weights_before is None
    assert run.ref.weight_update is None


def test_an_update_needs_weights_to_start_from(after: str) -> None:
    with pytest.raises(InputError, match="--weight-update needs") as raised:
        spec(after, None, weight_update="reload_weights")
    assert "--weights-before" in raised.value.hint


def test_an_unknown_update_lists_the_known(before: str, after: str) -> None:
    with pytest.raises(InputError, match="Unknown weight update 'magic'") as raised:
        spec(after, before, weight_update="magic")
    assert "reload_weights, weights_iterator, weight_transfer" in raised.value.hint


def test_a_weight_transfer_is_vllms(before: str, after: str) -> None:
    assert spec(after, before, weight_update="weight_transfer").infer.weight_update is not None
    with pytest.raises(InputError, match="weight_transfer is vLLM's; sglang has none"):
        spec(after, before, engine="sglang", engine_python="/p", weight_update="weight_transfer")


def test_an_engine_that_cannot_update_is_named(before: str, after: str) -> None:
    with pytest.raises(InputError, match="Engine hf cannot be given new weights"):
        spec(after, before, engine="hf", weight_update="reload_weights")
    assert spec(after, before, engine="hf").infer.weights_before == before


def test_weights_of_something_else_are_an_error(tmp_path: Path, after: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        spec(after, str(tmp_path / "nowhere"))
    other = tmp_path / "other"
    checkpoint(other)
    save_file({Q: np.ones((2, 3), np.float32)}, other / "model.safetensors")
    with pytest.raises(InputError, match="different architectures"):
        spec(after, str(other))
    with pytest.raises(InputError, match="some/name does not exist"):
        spec("some/name", after, dtype="float32")
