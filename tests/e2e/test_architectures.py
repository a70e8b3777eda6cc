"""Healthy models of architectures that nobody tried: none may be called broken.

Eight of the scorecard's random models, through real vLLM against FSDP2; `mismatch-lab scorecard
--subset architectures` runs all of them, in both dtypes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.scorecard.architectures import CI_ARCHITECTURES, make

pytestmark = [
    pytest.mark.usefixtures("fork_server"),
    pytest.mark.vllm,
    pytest.mark.timeout(300),
]

PROMPTS, MAX_TOKENS = 10, 32
"""At least the 256 tokens that a verdict needs, and little more."""


@pytest.mark.parametrize("name", CI_ARCHITECTURES)
def test_a_healthy_model_is_not_called_broken(name: str, tmp_path: Path) -> None:
    if name == "deepseek_v3" and torch.cpu._is_amx_tile_supported():
        pytest.skip("vLLM 0.32 has no latent attention in float32 on a CPU with AMX")
    make(name, tmp_path / name)
    request = DiagnoseRequest(
        model=str(tmp_path / name), dtype="float32", depth="standard", max_tokens=MAX_TOKENS
    )
    run = build_run(request)
    run = run.model_copy(update={"prompts": run.prompts[:PROMPTS]})
    findings = diagnose(run, tmp_path / "run", False, lambda _event: None, budget_s=0)
    assert findings.verdict.status == "match", findings.verdict
    assert findings.verdict.causes == []
    delta = findings.edges["decode_train"]["abs_delta_mean"]
    assert 0 < delta.value < 1e-5, "exactly 0 would mean that one side was compared with itself"
    assert findings.localisation is not None
    compared = {module.name for module in findings.localisation.per_module}
    # What every one of them has, compared and not just left out.
    assert {"model.embed_tokens", "model.layers.0.self_attn", "model.norm", "lm_head"} <= compared
    assert {"model.layers.0", "model.layers.2"} <= compared
