"""Planted faults through real servers, and through the same engines started by us: one cause.

A server is not touched: it serves a checkpoint, and `diagnose` is told of another one. Where every
tensor differs the server has the weights from before an update; where one does, it is corrupt
there. An engine of ours is given the served tensors by a plugin.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mismatch_lab.scorecard.architectures import make

sys.path.insert(0, str(Path(__file__).parent))  # `serving` stands beside the tests

from serving import VLLM, sglang_command, started, vllm_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLUGINS = Path(__file__).with_name("plugins.py")
TENSOR = "model.layers.1.self_attn.o_proj.weight"
BUDGET_S = 300
FLAT = "24"
"""Tokens an answer."""


@dataclass(frozen=True)
class Case:
    """A fault, and what is to be said of it."""

    model: str
    """The checkpoint that `diagnose` is told of."""
    options: tuple[str, ...]
    cause: tuple[str, str, str | None]
    """id, side, place"""
    confidence: float
    """Of the server's run, at least."""
    planted: bool = False
    """Whether an engine of ours is to be given the served tensors."""


CASES = {
    "stale weights": Case(
        "newer", ("--weights-before", "{served}"), ("stale-weights", "sync", None), 0.9, True
    ),
    "a perturbed tensor": Case("sound", (), ("stale-tensor", "infer", TENSOR), 0.5, True),
    "raw log-probs at a temperature": Case(
        "served", ("--probe", "temperature"), ("raw-logprobs-temperature", "infer", None), 0.9
    ),
    "the trainer's head in bf16": Case(
        "served", ("--trainer-plugin", f"{PLUGINS}:head_in_bf16"),
        ("lm-head-precision", "train", "lm_head"), 0.9,
    ),
}  # fmt: skip
QUICK = {("vllm", "a perturbed tensor")}
"""What `make test` runs: a minute and a half on two cores, with the start of the server."""


def every_case(of_servers: bool) -> list[Any]:
    """A case for each program; long ones are marked so."""
    return [
        pytest.param(
            program, name, id=f"{program}-{name}".replace(" ", "-"),
            marks=[
                getattr(pytest.mark, program),
                *(() if of_servers and (program, name) in QUICK else (pytest.mark.long,)),
            ],
        )
        for program in ("vllm", "sglang")
        for name in CASES
    ]  # fmt: skip


def copied(source: Path, folder: Path, tensors: Callable[[str], bool], step: float) -> Path:
    """A checkpoint with some tensors moved by so many of their standard deviations."""
    shutil.copytree(source, folder)
    random = torch.Generator().manual_seed(0)
    found = load_file(source / "model.safetensors")
    for name in filter(tensors, found):
        values = found[name].float()
        noise = torch.randn(values.shape, generator=random)
        found[name] = (values + step * values.std() * noise).to(found[name].dtype)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`served`, and what it is not: `sound`, but for one tensor, and `newer`, by an update."""
    folder = tmp_path_factory.mktemp("models")
    make("llama", folder / "served")
    served = folder / "served"
    return {
        "served": served,
        "sound": copied(served, folder / "sound", TENSOR.__eq__, 0.5),
        "newer": copied(served, folder / "newer", lambda name: True, 0.05),
    }


@pytest.fixture(scope="module")
def served(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """URL of a program's server with `served`, started when it is first asked for. SGLang's
    returns log-probs from before the temperature, as vLLM's does by itself.
    """
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def url(program: str) -> str:
            if program not in urls:
                log, model = tmp_path_factory.mktemp(program) / "log", models["served"]
                raw = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1", "PYTHONPATH": ""}
                server = (
                    started(vllm_command(model), log, **VLLM)
                    if program == "vllm"
                    else started(sglang_command(model), log, **raw)
                )
                urls[program] = stack.enter_context(server)
            return urls[program]

        yield url


def diagnosed(
    diagnose: Callable[..., dict[str, Any]], models: dict[str, Path], case: Case, *engine: str
) -> dict[str, Any]:
    options = [option.format(served=models["served"]) for option in case.options]
    common = ("--trainer", "fsdp", "--dtype", "float32", "--max-tokens", FLAT)
    return diagnose(str(models[case.model]), *engine, *common, *options, budget_s=BUDGET_S)


def first(findings: dict[str, Any]) -> tuple[str, str, str | None]:
    """id, side and place of the cause that is named first."""
    assert findings["verdict"]["status"] == "mismatch", findings["verdict"]["headline"]
    causes = findings["verdict"]["causes"]
    assert causes, findings["notes"]
    return causes[0]["id"], causes[0]["side"], causes[0]["location"]


@pytest.mark.parametrize(("program", "name"), every_case(True))
def test_a_fault_is_named_through_a_server(
    program: str,
    name: str,
    diagnose: Callable[..., dict[str, Any]],
    models: dict[str, Path],
    served: Callable[[str], str],
) -> None:
    case = CASES[name]
    findings = diagnosed(diagnose, models, case, "--engine-url", served(program))
    assert first(findings) == case.cause
    assert findings["verdict"]["causes"][0]["confidence"] >= case.confidence
    assert "a server shows no tensors" in " ".join(findings["notes"])
    if case.cause[0] == "stale-tensor":
        assert [one["if_gone"] for one in findings["verdict"]["by_hand"]] == ["it is stale-tensor"]


@pytest.mark.parametrize(("program", "name"), every_case(False))
def test_and_so_it_is_by_an_engine_of_ours(
    program: str,
    name: str,
    diagnose: Callable[..., dict[str, Any]],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    case = CASES[name]
    engine = ["--engine", program]
    if case.planted:
        plugin = tmp_path / "plant.py"
        plugin.write_text(
            "def plant(model):\n"
            "    from safetensors.torch import load_file\n"
            f"    tensors = load_file({str(models['served'] / 'model.safetensors')!r})\n"
            "    model.load_weights(iter(tensors.items()))\n"
        )
        engine += ["--engine-plugin", f"{plugin}:plant"]
    if program == "sglang" and "temperature" in name:
        engine += ["--engine-arg", "original_logprob=true"]
    assert first(diagnosed(diagnose, models, case, *engine)) == case.cause
