"""Body and head apart, for models that call their body in other ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM as Auto
from transformers import GPT2Config, GPTNeoXConfig, GraniteMoeConfig, OPTConfig

from mismatch_lab.engines import torch_model
from mismatch_lab.engines.torch_model import BodyAndHead
from mismatch_lab.engines.torch_routing import RoutingTap
from mismatch_lab.errors import InputError

IDS = torch.arange(3, 15)[None]
SMALL: dict[str, Any] = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2}
CONFIGS = {
    "OPT goes past its base_model": OPTConfig(
        ffn_dim=64, num_attention_heads=2, word_embed_proj_dim=32, dropout=0.0, **SMALL
    ),
    "GPT-NeoX has a head by another name": GPTNeoXConfig(
        intermediate_size=64, num_attention_heads=2, **SMALL
    ),
    "GPT-2 calls nothing as others do": GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=2),
}


def random(config: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = Auto.from_config(config).eval()
    return model


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_body_that_ran_and_the_head_make_the_models_own_logits(config: Any) -> None:
    model = random(config)
    parts = BodyAndHead(model)
    with torch.no_grad():
        hidden = parts.hidden(IDS, None)
        logits = parts.head(hidden[0, 4:7])
        expected = model(IDS).logits[0, 4:7]
    assert hidden.shape == (1, 12, 32)
    torch.testing.assert_close(logits, expected)


def test_a_model_without_layers_has_no_body() -> None:
    with pytest.raises(InputError, match="no body apart from its head"):
        BodyAndHead(nn.Linear(2, 2))


def test_the_logits_of_a_router_are_the_widest_of_what_it_gives() -> None:
    """Granite's gives experts, their weights, and the logits last; others give these first."""
    sizes = SMALL | {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = random(GraniteMoeConfig(num_local_experts=5, num_experts_per_tok=2, **sizes))
    tap = RoutingTap(model, 2)
    with torch.no_grad(), tap.attached():
        BodyAndHead(model).hidden(IDS, None)
    chosen, logits = tap.stacked()
    assert (chosen.shape, logits.shape) == ((12, 2, 2), (12, 2, 5))
    best = logits.topk(2, dim=-1).indices
    assert torch.equal(chosen.long(), best)


@pytest.mark.parametrize(
    ("free", "spread"),
    # 1,000 x 40 numbers of 4 bytes are 160,000 bytes, and a fifth more to run.
    [(192_001, False), (191_999, True)],
)
def test_a_model_is_spread_where_one_of_several_gpus_has_no_room(
    free: int, spread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(1000, 40, bias=False, device="meta")
    monkeypatch.setattr(torch_model, "free_bytes", lambda _device: free)
    first = torch.device("cuda", 0)
    assert torch_model.device_map_of(model, first) == ("auto" if spread else first)
