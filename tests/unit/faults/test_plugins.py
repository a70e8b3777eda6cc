"""Faults planted in transformers models change what they say, a stronger one more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES

ARCHITECTURES = ("gpt_oss", "gemma2", "qwen3_moe", "llama")
PASSIVE = {"packing-leak", "packing-leak-restarted", "kv-cache-fp8", "two-pass-training"}
"""Show in packed batches, with a cache or in training mode alone; each has a test of its own."""
ALIKE = {"retokenisation", "window-ignored"}
"""Of the few tokens, or windowed layers, of models this small medium and slight break one alike."""


def planted_in_transformers() -> list[tuple[str, str]]:
    cases = []
    for name in FAULTS:
        fault = load_fault(name)
        if fault.plant is None or (fault.side != "train" and "hf" not in fault.engines):
            continue
        fits = (a for a in ARCHITECTURES if name not in PASSIVE)
        cases += [(name, a) for a in fits if fault.applies(a, _raw(a))][:2]
    return cases


def _raw(model_type: str) -> dict[str, Any]:
    """As much of a config.json as the predicates read."""
    window = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    yarn = {"rope_parameters": {"rope_type": "yarn"}}
    parts: dict[str, dict[str, Any]] = {
        "gpt_oss": window | yarn | {"num_local_experts": 6},
        "gemma2": window | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        "qwen3_moe": {"num_experts": 6, "norm_topk_prob": True},
        "llama": yarn,
    }
    return parts[model_type] | {"num_hidden_layers": 4}


@pytest.mark.parametrize(("name", "architecture"), planted_in_transformers())
def test_breaks_more_when_stronger(
    name: str,
    architecture: str,
    build_model: Callable[[str], Any],
    whole: Callable[[str], Any],
) -> None:
    """Errors of several layers may cancel in the output of a random model; in the layers, each fed
    what the unbroken model feeds it, they add up.
    """
    fault = load_fault(name)
    assert fault.plant is not None
    found = []
    for severity in SEVERITIES:
        model = build_model(architecture)
        fault.plant(model, fault.severities[severity])
        found.append(whole(architecture).broken_by(model))
    in_layers, in_output = zip(*found, strict=True)
    # 1e-6 nats is the noise of fp32 in these models (measured: 2e-7 and less).
    assert min(in_output) > 1e-6, found
    plain, medium, slight = in_layers if min(in_layers) > 1e-6 else in_output
    assert plain > medium >= slight, found
    if name not in ALIKE:
        assert medium > slight, found


def test_raw_configs_are_those_of_the_models() -> None:
    from mismatch_lab.faults.architectures import has_window, has_yarn, is_moe

    assert [is_moe(a, _raw(a)) for a in ARCHITECTURES] == [True, False, True, False]
    assert [has_yarn(a, _raw(a)) for a in ARCHITECTURES] == [True, False, False, True]
    assert [has_window(a, _raw(a)) for a in ARCHITECTURES] == [True, True, False, False]


def test_single_layer_faults_leave_earlier_layers_alone(build_model: Callable[[str], Any]) -> None:
    import torch

    ids = torch.arange(2, 42)[None]
    for name in ("sinks-dropped-layer", "noised-tensor", "window-ignored-layer"):
        fault = load_fault(name)
        assert fault.plant is not None
        whole, broken = build_model("gpt_oss"), build_model("gpt_oss")
        fault.plant(broken, fault.severities["plain"])
        seen = [
            model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
            for model in (whole, broken)
        ]
        equal = [torch.equal(a, b) for a, b in zip(*seen, strict=True)]
        # Embedding and layers 0 and 1 come before layer 2, the middle (and last windowed) one.
        assert equal[:3] == [True, True, True], name
        assert not equal[3], name
        assert fault.expected_location(_raw("gpt_oss") | {"layer_types": _layer_types()}) in (
            "model.layers.2.self_attn",
            "model.layers.2.self_attn.o_proj",
        )


def _layer_types() -> list[str]:
    return ["sliding_attention", "full_attention"] * 2


def test_two_passes_differ_in_training_mode_alone(
    build_model: Callable[[str], Any],
    says: Callable[[Any], np.ndarray[Any, Any]],
    clean: dict[str, np.ndarray[Any, Any]],
) -> None:
    fault = load_fault("two-pass-training")
    assert fault.plant is not None
    model = build_model("qwen3_moe")
    fault.plant(model, fault.severities["plain"])
    # Weights are computed from the chosen logits here, from all of them in transformers: 1e-6.
    np.testing.assert_allclose(says(model), clean["qwen3_moe"], atol=2e-6)
    model.train()
    assert np.abs(says(model) - clean["qwen3_moe"]).mean() > 1e-3


def test_shape_dependent_experts_repeat_at_the_same_shape(
    build_model: Callable[[str], Any],
) -> None:
    import torch

    fault = load_fault("two-pass-shape")
    assert fault.plant is not None
    model = build_model("qwen3_moe")
    fault.plant(model, fault.severities["plain"])
    ids = torch.randint(2, 96, (4, 40), generator=torch.Generator().manual_seed(2))
    together = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(together, model(input_ids=ids, use_cache=False).logits)
    alone = model(input_ids=ids[:1], use_cache=False).logits
    assert not torch.allclose(together[:1], alone, atol=1e-3)


def test_leak_reaches_later_documents_alone(build_model: Callable[[str], Any]) -> None:
    import torch

    ids = torch.randint(2, 96, (1, 40), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(25), torch.arange(15)])[None]
    whole = build_model("llama")
    wanted = whole(input_ids=ids, position_ids=positions, use_cache=False).logits
    for name in ("packing-leak", "packing-leak-restarted"):
        fault = load_fault(name)
        assert fault.plant is not None
        model = build_model("llama")
        fault.plant(model, fault.severities["plain"])
        leaky = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(leaky[:, :25], wanted[:, :25])
        assert not torch.allclose(leaky[:, 25:], wanted[:, 25:], atol=1e-2)


def test_rounded_cache_touches_decode_and_not_prefill(build_model: Callable[[str], Any]) -> None:
    import torch

    fault = load_fault("kv-cache-fp8")
    assert fault.plant is not None
    ids = torch.randint(2, 96, (1, 30), generator=torch.Generator().manual_seed(4))
    whole = build_model("llama")
    wanted = whole(input_ids=ids, use_cache=False).logits
    broken = build_model("llama")
    fault.plant(broken, fault.severities["plain"])
    prefill = broken(input_ids=ids[:, :29], use_cache=True)
    assert torch.equal(prefill.logits, whole(input_ids=ids[:, :29], use_cache=True).logits)
    step = broken(input_ids=ids[:, 29:], past_key_values=prefill.past_key_values).logits
    assert not torch.allclose(step[:, -1], wanted[:, -1], atol=1e-3)


def test_gate_and_up_change_places() -> None:
    import torch

    from mismatch_lab.faults.moe import swapped

    # Interleaved g0 u0 g1 u1 becomes u0 g0 u1 g1; blocks g0 g1 u0 u1 become u0 u1 g0 g1.
    assert swapped(torch.tensor([[1, 2, 3, 4]]), 1, True).tolist() == [[2, 1, 4, 3]]
    assert swapped(torch.tensor([[1, 2, 3, 4]]), 1, False).tolist() == [[3, 4, 1, 2]]
    stacked = torch.arange(8).reshape(1, 4, 2)
    assert swapped(stacked, 1, False).tolist() == [[[4, 5], [6, 7], [0, 1], [2, 3]]]


def test_rounding_formats() -> None:
    import torch

    from mismatch_lab.faults.rounding import rounded, scaled_rounded

    # int4 of a row whose largest is 7: steps of 1. bf16 of 1 + 2^-9: back to 1.
    assert rounded(torch.tensor([7.0, 0.4, -2.6]), "int4").tolist() == [7.0, 0.0, -3.0]
    assert rounded(torch.tensor([1 + 2**-9]), "bfloat16").tolist() == [1.0]
    # e4m3 has 3 bits of mantissa: 17 lies between 16 and 18; beyond 448 it is clamped.
    assert rounded(torch.tensor([17.0, 1000.0]), "float8_e4m3fn").tolist() == [16.0, 448.0]
    # Scaled, the row's largest fills the range, so it is exact.
    assert scaled_rounded(torch.tensor([1000.0]), "float8_e4m3fn").item() == pytest.approx(1000.0)


def test_tensor_cores_cut_bits_off_and_gradients_pass() -> None:
    import torch

    from mismatch_lab.faults.precision import cut

    # 10 bits of mantissa: above 1 the steps are 2**-10, above 1024 they are 1.
    given = torch.tensor([1 + 2**-10 + 2**-11, -1 - 2**-11, 1024.75, 0.0], requires_grad=True)
    kept = cut(given)
    assert kept.tolist() == [1 + 2**-10, -1.0, 1024.0, 0.0]
    (gradient,) = torch.autograd.grad(kept.sum(), given)
    assert gradient.tolist() == [1.0] * 4
