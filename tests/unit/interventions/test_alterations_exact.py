"""What alterations do, against models built with the defect and against values by hand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV2Config, DynamicCache

from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions import altered
from mismatch_lab.interventions.cache import prompts_of
from mismatch_lab.interventions.rounding import (
    grouped_rounded,
    rounded,
    scaled_rounded,
    truncated,
)
from mismatch_lab.schema import Alteration, OptionValue

Tiny = Callable[[str], nn.Module]
Logits = Callable[[nn.Module], Tensor]


def with_(model: nn.Module, logits: Logits, name: str, value: OptionValue | None = None) -> Tensor:
    """[2, 24, V] logits of the altered model."""
    with altered(model, (Alteration(name=name, value=value),)):
        return logits(model)


def rebuilt(model: Any, change: Callable[[Any], None]) -> nn.Module:
    """A new model of a changed config, with the same weights."""
    config = deepcopy(model.config)
    change(config)
    new = type(model)(config).eval()
    new.load_state_dict(model.state_dict())
    return new  # type: ignore[no-any-return]


def rope(**more: Any) -> Callable[[Any], None]:
    """Config change: rotary parameters, for every layer type where there are several."""

    def change(config: Any) -> None:
        given = config.rope_parameters
        if "rope_type" in given:
            config.rope_parameters = given | more
        else:
            config.rope_parameters = {
                kind: one | {k: v * one["rope_theta"] for k, v in more.items()}
                for kind, one in given.items()
            }

    return change


def window(width: int) -> Callable[[Any], None]:
    """Config change: another window."""
    return lambda config: setattr(config, "sliding_window", width)


@pytest.mark.parametrize(
    ("kind", "name", "value", "change"),
    [
        ("gpt_oss", "sliding_window", 4, window(4)),
        ("qwen2", "sliding_window", 9, window(9)),
        ("gemma2", "sliding_window", 0, window(1000)),
        ("gpt_oss", "rope_theta", 10.0, rope(rope_theta=1e5)),
        ("qwen3", "rope_theta", 2.0, rope(rope_theta=2e4)),
        ("gemma3", "rope_theta", 10.0, rope(rope_theta=10)),  # both thetas, times 10
        ("gpt_oss", "rope_factor", 2.0, rope(factor=16.0)),
        ("llama", "rope_default", None, rope(rope_type="default")),
        ("gemma2", "attention_softcap", 0, lambda c: setattr(c, "attn_logit_softcapping", None)),
        ("gemma2", "final_softcap", 5.0, lambda c: setattr(c, "final_logit_softcapping", 5.0)),
        ("qwen3_moe", "norm_topk", None, lambda c: setattr(c, "norm_topk_prob", False)),
    ],
)
def test_it_is_the_model_that_was_built_so(
    tiny: Tiny,
    logits: Logits,
    kind: str,
    name: str,
    value: OptionValue | None,
    change: Callable[[Any], None],
) -> None:
    model = tiny(kind)
    built = logits(rebuilt(model, change))
    torch.testing.assert_close(with_(model, logits, name, value), built, rtol=0, atol=2e-5)
    assert not torch.allclose(logits(model), built, atol=1e-3)


ROUNDING = 1e-5
"""Logits of two passes in float32 differ by less: not every processor sums in one order."""


@pytest.mark.parametrize("value", [4, 9, 0])
def test_a_window_shows_only_behind_the_shorter_of_the_two(
    tiny: Tiny, logits: Logits, value: int
) -> None:
    model = tiny("gpt_oss")
    shift = (with_(model, logits, "sliding_window", value) - logits(model)).abs().amax(-1)
    moved = shift > ROUNDING
    first = min(value or 24, 6)  # the model's is 6: position 5 is the last to see all before it
    assert not moved[:, :first].any()
    assert moved[:, first:].all()


@pytest.mark.parametrize("value", [4, 9, 0])
def test_a_window_of_single_layers(tiny: Tiny, logits: Logits, value: int) -> None:
    model = tiny("gpt_oss")  # layer 0 has a window, layer 1 has none

    def inside(width: int, *layers: int) -> Tensor:
        with altered(model, (Alteration(name="sliding_window", value=width, layers=layers),)):
            return logits(model)

    assert torch.equal(inside(value, 0), with_(model, logits, "sliding_window", value))
    if value:
        all_slide = rebuilt(model, lambda c: setattr(c, "layer_types", ["sliding_attention"] * 2))
        both = with_(all_slide, logits, "sliding_window", value)
        torch.testing.assert_close(inside(value, 0, 1), both)


@pytest.mark.parametrize("name", ["rope_theta", "inv_freq_dtype"])
def test_angles_leave_the_first_position_alone(tiny: Tiny, logits: Logits, name: str) -> None:
    model = tiny("gpt_oss")
    value: OptionValue = 10.0 if name == "rope_theta" else "bfloat16"
    moved = (with_(model, logits, name, value) != logits(model)).any(-1)
    assert not moved[:, 0].any()
    assert moved[:, -1].all()


def test_sinks_matter_from_the_first_position_on(tiny: Tiny, logits: Logits) -> None:
    model = tiny("gpt_oss")
    change = (with_(model, logits, "drop_sinks") - logits(model)).abs().amax(-1)
    assert (change > 1e-2).all()


def test_a_cap_on_the_logits_is_taken_off(tiny: Tiny, logits: Logits) -> None:
    model = tiny("gemma2")
    before = logits(model)
    uncapped = with_(model, logits, "final_softcap", 0)
    torch.testing.assert_close(3.0 * torch.tanh(uncapped / 3.0), before)  # the model's cap is 3


def test_a_tied_embedding_keeps_its_precision_when_the_head_loses_it(
    tiny: Tiny, logits: Logits
) -> None:
    model: Any = tiny("plain_llama")
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state
        with altered(model, (Alteration(name="head_dtype"),)):
            assert torch.equal(model.model(input_ids=ids).last_hidden_state, hidden)
            inside = model(input_ids=ids).logits
    narrow = hidden.bfloat16().float() @ model.lm_head.weight.bfloat16().float().T
    assert torch.equal(inside, narrow.bfloat16().float())


def test_gpt_oss_weights_are_a_softmax_over_all_experts_when_not_normalised(tiny: Tiny) -> None:
    router: Any = tiny("gpt_oss").get_submodule("model.layers.0.mlp.router")
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with altered(tiny("gpt_oss"), (Alteration(name="norm_topk"),)), torch.no_grad():
        given, weights, chosen = router(x)
    every = torch.exp(given) / torch.exp(given).sum(-1, keepdim=True)
    torch.testing.assert_close(weights, every.gather(-1, chosen))
    assert (weights.sum(-1) < 1).all()


def test_experts_read_gate_and_up_in_the_other_order(tiny: Tiny) -> None:
    model = tiny("qwen3_moe")
    experts: Any = model.get_submodule("model.layers.0.mlp.experts")
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    chosen, weight = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)

    def by_hand(gate: Tensor, up: Tensor) -> Tensor:
        act = nn.functional.silu(x @ gate.T) * (x @ up.T)
        result: Tensor = act @ experts.down_proj[0].T
        return result

    rows = experts.gate_up_proj.data[0].clone()
    for order, gate, up in [
        ("interleaved", rows[::2], rows[1::2]),
        ("swapped", rows[16:], rows[:16]),
    ]:
        with altered(model, (Alteration(name="expert_gate_up_order", value=order),)):
            torch.testing.assert_close(experts(x, chosen, weight), by_hand(gate, up))


def test_gpt_oss_experts_read_as_halves(tiny: Tiny) -> None:
    model = tiny("gpt_oss")
    experts: Any = model.get_submodule("model.layers.0.mlp.experts")
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    chosen, weight = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
    fused = x @ experts.gate_up_proj[0] + experts.gate_up_proj_bias[0]
    for order, at in [
        ("split", (slice(0, 48), slice(48, 96))),
        ("swapped", (slice(1, 96, 2), slice(0, 96, 2))),
    ]:
        gate, up = fused[:, at[0]].clamp(max=7.0), fused[:, at[1]].clamp(-7.0, 7.0)
        act = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        expected = act @ experts.down_proj[0] + experts.down_proj_bias[0]
        with altered(model, (Alteration(name="expert_gate_up_order", value=order),)):
            torch.testing.assert_close(experts(x, chosen, weight), expected)


def test_decoding_from_a_narrow_cache_is_the_narrowed_forward(tiny: Tiny, logits: Logits) -> None:
    model: Any = tiny("llama")
    ids = torch.randint(2, 40, (2, 24), generator=torch.Generator().manual_seed(1))
    with altered(model, (Alteration(name="kv_dtype", value="float8_e4m3fn"),)), torch.no_grad():
        whole = logits(model)
        cache: Any = None
        steps = []
        for at in range(24):
            output = model(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    assert (cache.layers[0].keys == cache.layers[0].keys.to(torch.float8_e4m3fn).float()).all()
    # A key at the edge between two fp8 numbers may fall on either side.
    assert (torch.cat(steps, dim=1) - whole).abs().median() < 1e-5


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2", "qwen3_moe", "llama"])
def test_a_cache_that_is_read_back_is_what_decoding_from_it_says(tiny: Tiny, kind: str) -> None:
    """Against transformers' own cache, which is rounded after every pass that wrote to it."""
    # In float64 but for the norms, lest a key at the edge between two fp8 numbers falls on either
    # side of it.
    model: Any = deepcopy(tiny(kind)).double()
    ids = torch.randint(2, 40, (2, 24), generator=torch.Generator().manual_seed(1))
    lengths = (9, 5)
    expected = torch.full((2, 24, model.config.vocab_size), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        for row, prompt in enumerate(lengths):
            cache = DynamicCache()  # not of the config: a window would throw keys away
            for start, stop in ((0, prompt), *((at, at + 1) for at in range(prompt, 24))):
                passed = ids[row : row + 1, start:stop]
                said = model(input_ids=passed, past_key_values=cache, use_cache=True).logits
                expected[row, start:stop] = said
                for layer in cache.layers:
                    layer.keys = rounded(layer.keys, torch.float8_e5m2)
                    layer.values = rounded(layer.values, torch.float8_e5m2)
        alteration = Alteration(name="kv_read_back", value="float8_e5m2")
        with altered(model, (alteration,)), prompts_of(torch.tensor(lengths)):
            found = model(input_ids=ids, use_cache=False).logits
        plain = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    for row, prompt in enumerate(lengths):
        torch.testing.assert_close(plain[row, :prompt], found[row, :prompt])
        assert (plain - found)[row, prompt:].abs().max() > 1e-2


def test_without_the_prompts_lengths_nothing_is_read_back(tiny: Tiny, logits: Logits) -> None:
    model = tiny("llama")
    with pytest.raises(NotApplicableError):
        with_(model, logits, "kv_read_back", "float8_e5m2")
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2", "qwen3"])
def test_narrow_norms_differ_by_as_much_as_the_format_loses(tiny: Tiny, kind: str) -> None:
    norm = tiny(kind).get_submodule("model.layers.0.input_layernorm")
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    before = norm(x)
    with altered(tiny(kind), (Alteration(name="norm_dtype"),)):
        inside = norm(x)
    assert torch.equal(inside, inside.bfloat16().float())
    # Roundings of relative size 2**-9 each: of x, its statistics, the product, the gain.
    assert 1e-4 < ((inside - before).abs() / before.abs()).median() < 6 * 2**-9


def test_rounding_by_hand() -> None:
    # e4m3: 0.3 lies between 1.125/4 = 0.28125 and 1.25/4 = 0.3125, nearer the second; 448 is max.
    plain = rounded(torch.tensor([0.3, 500.0]), torch.float8_e4m3fn)
    assert plain.tolist() == [0.3125, 448.0]
    # Cut off, it is the first on both sides of zero; numbers of the format, zero too, stay.
    cut = truncated(torch.tensor([0.3, -0.3, 500.0, 0.25, 0.0, 1e-9]), torch.float8_e4m3fn)
    assert cut.tolist() == [0.28125, -0.28125, 448.0, 0.25, 0.0, 0.0]
    # Scale 3.5/448 = 2**-7: 1.1 * 128 = 140.8, between 136 and 144 (steps of 16): 144/128.
    scaled = scaled_rounded(torch.tensor([3.5, 1.1]), "float8_e4m3fn")
    assert scaled.tolist() == [3.5, 1.125]
    # int8: scale 127/127 = 1. A row of zeros stays.
    eight = scaled_rounded(torch.tensor([[127.0, 1.4], [0.0, 0.0]]), "int8", (-1,))
    assert eight.tolist() == [[127.0, 1.0], [0.0, 0.0]]
    # int4 in groups of 2: scales 7/7 and 14/7; 3.4 -> 3; 5.2 / 2 = 2.6 -> 3 * 2; alone: itself.
    four = grouped_rounded(torch.tensor([7.0, 3.4, 14.0, 5.2, 0.25]), "int4", 2)
    assert four.tolist() == [7.0, 3.0, 14.0, 6.0, 0.25]


def test_quantised_experts_have_a_scale_for_every_output_channel(tiny: Tiny) -> None:
    model = tiny("gpt_oss")
    experts: Any = model.get_submodule("model.layers.0.mlp.experts")
    kept = {name: p.clone() for name, p in model.named_parameters()}
    with altered(model, (Alteration(name="weight_dtype", value="int8"),)):
        inside = experts.gate_up_proj.data.clone()  # [experts, in, out]
        moved = {name for name, p in model.named_parameters() if not p.equal(kept[name])}
    for channel in inside.flatten(0, 0)[1].T[:3]:
        codes = channel / (channel.abs().max() / 127)
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    matrices = {f"self_attn.{p}_proj.weight" for p in "qkvo"}
    matrices |= {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert moved == {f"model.layers.{i}.{name}" for i in range(2) for name in matrices}


def test_cosine_and_sine_as_one_complex_number_are_rounded_too() -> None:
    """DeepSeek-V2's rotary embedding gives exp(i phi), not two tables."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 20}
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    config = DeepseekV2Config(
        num_attention_heads=2, num_key_value_heads=2, v_head_dim=8, first_k_dense_replace=1,
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, **sizes, **latent,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    seen: list[torch.Tensor] = []
    with altered(model, (Alteration(name="rope_dtype", value="bfloat16"),)):
        model.model.rotary_emb.register_forward_hook(lambda _m, _a, out: seen.append(out))
        with torch.no_grad():
            model(torch.arange(3, 12)[None])
    (phases,) = seen
    assert phases.is_complex()
    parts = torch.view_as_real(phases)
    assert torch.equal(parts, parts.bfloat16().float())
