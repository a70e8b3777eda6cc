"""`--trainer verl`: verl's own actor on this CPU, healthy and with defects of its configuration."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.captures.store import load_manifest
from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.jobs import Stage, WorkerTask
from mismatch_lab.errors import InputError
from mismatch_lab.executors.local import run_task
from mismatch_lab.schema import SideSpec

Diagnose = Callable[..., dict[str, Any]]
VERL = ("--engine", "hf", "--trainer", "verl")

pytestmark = [pytest.mark.verl, pytest.mark.slow, pytest.mark.timeout(600)]


def manifest(found: dict[str, Any]) -> Any:
    """Of what the trainer recorded."""
    return load_manifest(found["out"] / "captures" / "train")


def test_verls_own_log_probs_are_those_of_the_model(diagnose: Diagnose) -> None:
    found = diagnose(
        "mini-gpt-oss", *VERL, "--dtype", "float32", "--temperature", "0.7", "--depth", "standard"
    )
    assert found["verdict"]["status"] == "match"
    assert len(found["localisation"]["per_module"]) > 30
    assert found["localisation"]["first_divergent_module"] is None
    recorded = manifest(found)
    assert recorded.engine_version.startswith("verl 0.9.1")
    assert recorded.options["attn_implementation"] == "eager"
    assert recorded.options["use_remove_padding"] is False  # eager would not keep rows apart
    assert any("flash attention does" in note for note in recorded.patched)


def test_an_entry_that_verl_lacks_and_one_of_a_gpu_are_refused(tmp_path: Path) -> None:
    for args, says in (
        ({"model.use_fused_kernel": True}, "model.use_fused_kernel"),
        ({"model.override_config.attn_implementation": "flash_attention_2"}, "needs a GPU"),
    ):
        spec = SideSpec(
            side="train", engine="verl", model=resolve_model_path("mini-gpt-oss"),
            dtype="float32", args=args, python=interpreter("verl", None),
        )  # fmt: skip
        task = WorkerTask(stages=[Stage(spec=spec, jobs=[])], captures_dir=str(tmp_path / "c"))
        with pytest.raises(InputError, match=says):
            run_task(task, "verl", tmp_path / "logs", lambda event: None)


CHECK = """
from mismatch_lab.engines.function import check_trainer
check_trainer({program!r}, {model!r}, {dtype!r})
"""
PROGRAM = """
from mismatch_lab.engines.verl import Verl
from mismatch_lab.schema import SideSpec

def load(model, dtype):
    spec = SideSpec(side="train", engine="verl", model=model, dtype=dtype)
    return Verl(spec, {}, on_cpu=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_rows_of_verl_keep_the_contract(llama: Path, tmp_path: Path, dtype: str) -> None:
    """In verl's interpreter: each row at its own place and apart from the others, the temperature
    applied. A Llama's rows are packed: sdpa keeps them apart.
    """
    program = tmp_path / "verls.py"
    program.write_text(PROGRAM)
    check = CHECK.format(program=f"{program}:load", model=str(llama), dtype=dtype)
    done = subprocess.run(
        [str(interpreter("verl", None)), "-W", "ignore", "-c", check],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_a_llama_in_bfloat16_is_within_its_floor(
    diagnose: Diagnose, llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "verl.yaml"
    file.write_text(
        "actor_rollout_ref:\n"
        "  model: {path: elsewhere, lora_rank: 0}\n"
        "  actor: {ppo_epochs: 3, fsdp_config: {model_dtype: bf16}}\n"
    )
    found = diagnose(str(llama), *VERL, "--dtype", "bfloat16", "--trainer-arg", f"config={file}")
    assert found["verdict"]["status"] == "numerics"
    options = manifest(found).options
    assert (options["model_dtype"], options["use_remove_padding"]) == ("bf16", True)
    assert "actor.ppo_epochs: of the update" in options["left_out"]


@pytest.mark.long
def test_log_probs_rounded_to_bfloat16_are_named(diagnose: Diagnose) -> None:
    found = diagnose("mini-gpt-oss", *VERL, "--dtype", "bfloat16")
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("logprob-precision", "train")


@pytest.mark.long
def test_packed_rows_that_see_each_other_are_named(diagnose: Diagnose) -> None:
    found = diagnose(
        "mini-gpt-oss", *VERL, "--dtype", "float32", "--depth", "standard",
        "--trainer-arg", "model.override_config.attn_implementation=eager", budget_s=120,
    )  # fmt: skip
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("packing-leak", "train")
    assert cause["confidence"] > 0.9


DROPS_SINKS = """
from transformers.models.gpt_oss import modeling_gpt_oss

own = modeling_gpt_oss.GptOssAttention.forward

def forward(self, *args, **kwargs):
    self.sinks.data.fill_(-1e4)
    return own(self, *args, **kwargs)

modeling_gpt_oss.GptOssAttention.forward = forward
"""


@pytest.mark.long
def test_a_library_of_the_users_that_drops_sinks_is_named(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl imports `model.external_lib` before it builds the model; people patch models there."""
    (tmp_path / "drops_sinks.py").write_text(DROPS_SINKS)
    python = str(interpreter("verl", None))
    monkeypatch.chdir(tmp_path)
    found = diagnose(
        "mini-gpt-oss", *VERL, "--dtype", "float32", "--depth", "standard",
        "--trainer-arg", "model.external_lib=drops_sinks", "--trainer-python", python,
        budget_s=120,
    )  # fmt: skip
    cause = found["verdict"]["causes"][0]
    assert (cause["id"], cause["side"]) == ("attention-sinks-dropped", "train")
    assert cause["location"] == "model.layers.0.self_attn"
