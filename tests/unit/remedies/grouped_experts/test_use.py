"""Applied by name to a loaded model; under FSDP2; the measurement at tiny shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.grouped_experts.bench import measure, ways
from mismatch_lab.remedies.grouped_experts.bench.__main__ import measure_all
from mismatch_lab.remedies.grouped_experts.bench.layer import (
    Setting,
    choose,
    make_layer,
    make_mesh,
    shard,
)
from mismatch_lab.remedies.grouped_experts.interface import NAME, register, use
from mismatch_lab.remedies.grouped_experts.memory import LayerShape

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


def tiny_gpt_oss() -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    config = GptOssConfig(**sizes)
    return GptOssForCausalLM._from_config(config, **EAGER).double()  # type: ignore[no-untyped-call]


def tiny_qwen_moe() -> Any:
    """No biases, weights that are not transposed, gate and up one after the other."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "moe_intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    config = Qwen3MoeConfig(**sizes)
    return Qwen3MoeForCausalLM._from_config(config, **EAGER).double()  # type: ignore[no-untyped-call]


def logits_and_gradients(model: Any) -> dict[str, Tensor]:
    ids = torch.arange(30).view(2, 15) * 7 % 40
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    logits.log_softmax(-1)[..., 3].sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach()} | grads


@pytest.mark.parametrize("build", [tiny_gpt_oss, tiny_qwen_moe])
@pytest.mark.parametrize("training", [True, False])
def test_a_whole_model_agrees_with_eager(build: Any, training: bool) -> None:
    model = build().train(training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # biases begin at zero
    eager = logits_and_gradients(model)
    use(model)
    assert model.config._experts_implementation == NAME
    ours = logits_and_gradients(model)
    assert ours.keys() == eager.keys()
    assert any("experts" in name for name in ours)
    for name, exact in eager.items():
        # Rotary angles and the router's softmax are rounded to float32 alike on both sides.
        torch.testing.assert_close(ours[name], exact, rtol=1e-7, atol=1e-9)


def test_under_fsdp_the_gathered_weights_are_there_again_for_the_backward_pass() -> None:
    setting = Setting(LayerShape(6, 10, 5, 2), torch.float64, "cpu")
    plain, sharded = make_layer(setting), make_layer(setting)
    register()
    choose(sharded, NAME)
    try:
        shard(sharded, make_mesh("cpu"))
        x = torch.randn(1, 9, 6, dtype=torch.float64, requires_grad=True)
        out, scores = sharded(x)  # whose graph is dropped, as where memory is measured
        del out, scores
        for _ in range(2):
            sharded(x)[0].square().sum().backward()
        plain(x)[0].square().sum().backward()
        for (name, exact), (_, got) in zip(
            plain.named_parameters(), sharded.named_parameters(), strict=True
        ):
            whole = got.grad.full_tensor()
            torch.testing.assert_close(whole, 2 * exact.grad, msg=name)  # two passes
    finally:
        torch.distributed.destroy_process_group()


def test_use_refuses_what_has_no_experts() -> None:
    with pytest.raises(InputError, match="Linear has no experts"):
        use(nn.Linear(2, 2))


def test_a_dry_run_measures_under_fsdp_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 180.00 GiB. GPU 0 has less.")

    monkeypatch.setattr(measure, "SECONDS_PER_ROW", 0.0)
    monkeypatch.setattr(ways, "repeat_forward", broken)
    accuracy, rows = measure_all(tmp_path, dry_run=True)
    right = [row for row in accuracy if row.way != "repeat"]
    assert len(right) == 4
    # float32 has 24 bits: sums of a few dozen terms are right to about 1e-6.
    assert all(max(row.errors.values()) < 1e-5 for row in right if row.errors)
    assert all(row.errors for row in right)
    # 5 ways, 2 modes, 2 passes, 2 lengths; what runs out of memory is a row, and others go on.
    assert len(rows) == 40
    failed = {row.note for row in rows if row.way == "repeat"}
    assert failed == {"OutOfMemoryError: Tried to allocate 180.00 GiB"}
    assert all(row.milliseconds > 0 for row in rows if row.way != "repeat")
    peaks = {(r.way, r.tokens, r.mode): r.peak_mib for r in rows if r.backward}
    assert peaks[NAME, 64, "train"] < peaks["eager", 64, "train"] < peaks["batched_mm", 64, "train"]
    found = json.loads((tmp_path / "experts.json").read_text(encoding="utf-8"))
    assert found["machine"]["sharding"] == "FSDP2, 1 rank"
    assert [len(found["accuracy"]), len(found["rows"])] == [5, 40]
    assert "| batched_mm | 3037.50 |" in (tmp_path / "experts.md").read_text(encoding="utf-8")
