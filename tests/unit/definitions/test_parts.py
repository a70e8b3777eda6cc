"""Parts of a definition, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.definitions.modules import XIELU, Attention, Experts, LayerNorm, RMSNorm, Router
from mismatch_lab.definitions.recipes import RECIPES, layer_windows, rotary_layers, scale_of
from mismatch_lab.definitions.rotary import RotaryEmbedding, frequencies_of, parameters_of

PLAIN = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}


def has_nothing(_name: str) -> bool:
    return False


def filled(module: nn.Module, **values: Any) -> Any:
    for name, value in values.items():
        owner, _, leaf = name.replace("__", ".").rpartition(".")
        setattr(
            module.get_submodule(owner),
            leaf,
            nn.Parameter(torch.tensor(value), requires_grad=False),
        )
    return module


def test_rms_norm() -> None:
    # mean of squares of (3, 4) is 12.5, and with eps 12.5 it is 25: 3/5 * 2 and 4/5 * (1 + 2).
    norm = filled(RMSNorm((2,), eps=12.5, offset=1.0), weight=[1.0, 2.0])
    assert norm(torch.tensor([[3.0, 4.0]])).tolist() == [[pytest.approx(1.2), pytest.approx(2.4)]]


def test_layer_norm() -> None:
    # mean 4, deviations -1 and 1, variance 1, with eps 3 the root is 2: -0.5 * 3 and 0.5 * 1 + 7.
    norm = filled(LayerNorm((2,), 3.0, 0.0, bias=True), weight=[3.0, 1.0], bias=[0.0, 7.0])
    assert norm(torch.tensor([[3.0, 5.0]])).tolist() == [[pytest.approx(-1.5), pytest.approx(7.5)]]


def test_frequencies_fall_from_one_to_the_base() -> None:
    # d = 4: 100^0 and 100^(-2/4).
    found, factor = frequencies_of(PLAIN, 4, 64, long=False)
    assert found.tolist() == pytest.approx([1.0, 0.1])
    assert factor == 1.0


def test_a_part_of_each_head_turns() -> None:
    found, _ = frequencies_of(PLAIN | {"partial_rotary_factor": 0.5}, 8, 64, long=False)
    assert found.tolist() == pytest.approx([1.0, 0.1])


def test_llama3_stretches_long_waves_alone() -> None:
    # Frequencies 1, 0.1, 0.01, 0.001 turn 64 / (2 pi) * f times within the original 64 tokens:
    # 10.2, 1.02, 0.102, 0.0102. Above 4 times they stay, below 1 they are an eighth, and 1.02 lies
    # (1.0186 - 1) / 3 = 0.0062 of the way: 0.1 * 0.0062 + 0.0125 * 0.9938 = 0.013043.
    given = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    found, _ = frequencies_of(given, 8, 512, long=False)
    assert found.tolist() == pytest.approx([1.0, 0.013043, 0.00125, 0.000125], rel=1e-4)


def test_yarn_mixes_by_the_number_of_the_pair() -> None:
    # theta 100, d = 8: pair i has the frequency 100^(-i/4), and turns 64 / (2 pi) times that within
    # 64 tokens. From the turns of pair 2 to those of pair 4 the share of the stretched frequency
    # grows from 0 to 1: pair 3 has half of each.
    turns = [64 / (2 * math.pi) * 100 ** (-number / 4) for number in (2, 4)]
    given = {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "partial_rotary_factor": 1.0,
        "factor": 4.0,
        "beta_fast": turns[0],
        "beta_slow": turns[1],
        "truncate": False,
        "original_max_position_embeddings": 64,
    }
    found, factor = frequencies_of(given, 8, 256, long=False)
    plain = [100 ** (-i / 4) for i in range(4)]
    expected = [plain[0], plain[1], plain[2], plain[3] * (0.5 + 0.5 / 4)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert factor == pytest.approx(0.1 * math.log(4) + 1)


def test_longrope_has_other_numbers_for_long_rows() -> None:
    given = PLAIN | {
        "rope_type": "longrope",
        "short_factor": [1.0, 2.0],
        "long_factor": [4.0, 8.0],
        "original_max_position_embeddings": 16,
    }
    short, factor = frequencies_of(given, 4, 256, long=False)
    long, _ = frequencies_of(given, 4, 256, long=True)
    assert short.tolist() == pytest.approx([1.0, 0.05])
    assert long.tolist() == pytest.approx([0.25, 0.0125])
    assert factor == pytest.approx(math.sqrt(1 + math.log(16) / math.log(16)))
    turned = RotaryEmbedding(given, 4, 256, "halves")
    inside = turned(torch.zeros(1), torch.arange(16)[None])[0][0, 1]
    beyond = turned(torch.zeros(1), torch.arange(17)[None])[0][0, 1]
    assert inside.tolist() == pytest.approx([factor * math.cos(1.0), factor * math.cos(0.05)])
    assert beyond.tolist() == pytest.approx([factor * math.cos(0.25), factor * math.cos(0.0125)])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    # Entries 0 and 2: (1, 3) becomes (-3, 1). Entries 0 and 1: (1, 2) becomes (-2, 1).
    [("halves", [-3.0, 2.0, 1.0, 4.0]), ("neighbours", [-2.0, 1.0, 3.0, 4.0])],
)
def test_the_first_pair_turns_by_a_right_angle(pairs: Any, expected: list[float]) -> None:
    rotary = RotaryEmbedding(PLAIN, 4, 64, pairs)
    cos, sin = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    heads = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    assert rotary.turn(heads, cos, sin).flatten().tolist() == expected


def test_older_spellings_of_rotary_entries() -> None:
    older = {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert parameters_of(older, "full_attention") == {
        "factor": 2.0, "rope_type": "linear", "rope_theta": 5.0, "partial_rotary_factor": 1.0,
    }  # fmt: skip
    local = {"rope_theta": 5.0, "rope_local_base_freq": 7.0}
    assert parameters_of(local, "sliding_attention")["rope_theta"] == 7.0
    assert parameters_of(local, "full_attention")["rope_theta"] == 5.0


def attention(kind: str, window: int | None = None, **config: Any) -> Attention:
    """One head of one entry; projections hand on what they get."""
    sizes = {"hidden_size": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 1}
    given = {**sizes, "layer_types": ["full_attention"], "num_hidden_layers": 1, **config}
    made = Attention(
        given, RECIPES[kind], None, window, lambda shape: RMSNorm(shape, 0.0), has_nothing, 0
    )
    values = {f"{part}_proj__weight": [[1.0]] for part in "qkvo"}
    return filled(made, **values)  # type: ignore[no-any-return]


def attended(module: Attention, *values: float) -> list[float]:
    nothing = torch.zeros(1, len(values), 0)
    x: Tensor = torch.tensor(values).view(1, -1, 1)
    found: list[float] = module(x, nothing, nothing).flatten().tolist()
    return found


def test_attention_is_a_softmax_over_what_came_before() -> None:
    # Query 2 against keys 1 and 2: scores 2 and 4; weights 1/(1 + e^2) and e^2/(1 + e^2).
    weight = math.exp(2) / (1 + math.exp(2))
    expected = [1.0, (1 - weight) + 2 * weight]
    assert attended(attention("llama"), 1.0, 2.0) == pytest.approx(expected)


def test_a_window_counts_the_querys_own_key() -> None:
    assert attended(attention("llama", window=1), 1.0, 2.0, 3.0) == [1.0, 2.0, 3.0]
    two = attended(attention("llama", window=2), 1.0, 2.0, 3.0)
    # Query 3 sees keys 2 and 3 alone: scores 6 and 9.
    assert two[2] == pytest.approx(2 + 1 / (1 + math.exp(-3)))


def test_a_sink_takes_weight_and_gives_nothing() -> None:
    # Score 1 of the only key against a sink of 0: e / (e + 1) of the value.
    made = filled(attention("gpt_oss"), sinks=[0.0])
    assert attended(made, 1.0) == pytest.approx([math.e / (math.e + 1)])


def test_a_softcap_and_another_scale() -> None:
    # Scores 2 and 4 times 1/sqrt(16) are 0.5 and 1; capped at 1: tanh(0.5) and tanh(1).
    made = attention("gemma2", query_pre_attn_scalar=16, attn_logit_softcapping=1.0)
    low, high = math.exp(math.tanh(0.5)), math.exp(math.tanh(1.0))
    assert attended(made, 1.0, 2.0)[1] == pytest.approx((low + 2 * high) / (low + high))


def router(kind: str, **config: Any) -> Router:
    given = {"hidden_size": 2, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4}
    made = Router({**given, "num_experts_per_tok": 2, **config}, RECIPES[kind], has_nothing)
    logs = [[math.log(value), 0.0] for value in (1.0, 2.0, 3.0, 4.0)]
    return filled(made, weight=logs)  # type: ignore[no-any-return]


ONE = torch.tensor([[1.0, 0.0]])


def test_weights_of_experts_by_softmax() -> None:
    # Odds 1, 2, 3, 4 of 10: the best two have 0.4 and 0.3, and 4/7 and 3/7 of their sum.
    for kind, rule, expected in (
        ("olmoe", False, [0.4, 0.3]),
        ("olmoe", True, [4 / 7, 3 / 7]),
        ("gpt_oss", True, [4 / 7, 3 / 7]),
    ):
        _, weights, chosen = router(kind, norm_topk_prob=rule)(ONE)
        assert chosen.tolist() == [[3, 2]]
        assert weights[0].tolist() == pytest.approx(expected)


def test_a_correction_chooses_and_does_not_weigh() -> None:
    # Sigmoids of log odds: 1/2, 2/3, 3/4, 4/5. In groups of two only the first is open once its sum
    # with the correction is the larger one: 1/2 + 2/3 + 1 against 3/4 + 4/5.
    made = router("glm4_moe", n_group=2, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2)
    _, _, without = made(ONE)
    assert sorted(without[0].tolist()) == [2, 3]
    made = filled(made, e_score_correction_bias=[1.0, 0.0, 0.0, 0.0])
    _, weights, chosen = made(ONE)
    assert chosen.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([2 * 3 / 7, 2 * 4 / 7])


def test_experts_add_up_by_their_weights() -> None:
    # Gate 1, up x, down e + 1: an expert gives (e + 1) relu(x) x; 0.25 of the first and 0.75 of the
    # second give 0.25 * 4 + 0.75 * 8 for x = 2.
    made = Experts(2, 1, 1, torch.relu)
    made = filled(made, gate_up_proj=[[[1.0], [1.0]]] * 2, down_proj=[[[1.0]], [[2.0]]])
    weights, chosen = torch.tensor([[0.25, 0.75]]), torch.tensor([[0, 1]])
    assert made(torch.tensor([[2.0]]), weights, chosen).item() == pytest.approx(7.0)


def test_xielu_on_both_sides_of_zero() -> None:
    # Slopes softplus(0) = ln 2; above: ln2 x^2 + x/2; below: (1/2 + ln 2)(e^x - 1 - x) + x/2.
    made = filled(XIELU(), alpha_p=[0.0], alpha_n=[0.0], beta=0.5)
    below = (0.5 + math.log(2)) * (math.exp(-1) - 1 + 1) - 0.5
    found = made(torch.tensor([2.0, -1.0])).tolist()
    assert found == pytest.approx([4 * math.log(2) + 1, below])


def test_which_layers_have_windows_and_positions() -> None:
    config = {"num_hidden_layers": 4, "sliding_window": 8}
    assert layer_windows(config, RECIPES["mistral"]) == [8] * 4
    assert layer_windows(config, RECIPES["gemma2"]) == [8, None, 8, None]
    assert layer_windows(config | {"use_sliding_window": False}, RECIPES["qwen2"]) == [None] * 4
    exaone = config | {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
    assert rotary_layers(exaone, RECIPES["exaone4"]) == [True, True, True, False]
    without = exaone | {"sliding_window": None}
    assert rotary_layers(without, RECIPES["exaone4"]) == [True] * 4


def test_expressions_of_the_config() -> None:
    config = {"a": 4.0}
    found = [scale_of(config, text) for text in ("a", "1/a", "sqrt(a)", "1/sqrt(a)", "")]
    assert found == [4.0, 0.25, 2.0, 0.5, 1.0]
