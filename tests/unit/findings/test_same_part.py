"""Two things by one name: what differs inside and arrives nowhere is not a module that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from localised import (
    MODULES,
    POSITIONS,
    Err,
    found,
    module,
    recorded,
    state,
)

from mismatch_lab.schema import Localisation

QUERY, HOLDER = "model.layers.0.self_attn.q_norm", "model.layers.0.self_attn"
EXACT = Err(6e-8, 0.0, 6e-8)


def in_float32(**errors: Err) -> Localisation:
    named = {"q_norm": QUERY, "self_attn": HOLDER, "layer": "model.layers.0"}
    given = dict.fromkeys(MODULES, EXACT) | {named[k]: e for k, e in errors.items()}
    captures = recorded(given)
    captures["train"] = replace(captures["train"], tap_order=(QUERY, *MODULES))
    return found(captures, "float32")


def test_a_part_that_differs_inside_what_agrees_is_another_thing() -> None:
    """A q_norm off by 1.4 in an attention that agrees to 6e-7 with a limit of 9e-7."""
    result = in_float32(q_norm=Err(1.4, 0.0, 6e-8), self_attn=Err(6e-7, 0.0, 3e-7))
    assert result.first_divergent_module is None
    (left_out,) = result.not_compared
    assert left_out.name == QUERY
    assert "1.4" in left_out.why
    assert HOLDER in left_out.why
    assert QUERY not in {m.name for m in result.per_module}


def test_a_part_whose_error_arrives_is_wrong() -> None:
    """Of 1.4 at least a twentieth must arrive: 0.07."""
    arrived = Err(0.08, 0.0, 3e-7)
    result = in_float32(q_norm=Err(1.4, 0.0, 6e-8), self_attn=arrived, layer=arrived)
    assert (result.first_divergent_module, result.side) == (QUERY, "infer")
    assert result.not_compared == []


def test_what_is_wrong_beside_it_does_not_excuse_it() -> None:
    """The attention is off by 1e-4, a real error, which the q_norm's 1.4 cannot have made."""
    arrived = Err(1e-4, 0.0, 3e-7)
    result = in_float32(q_norm=Err(1.4, 0.0, 6e-8), self_attn=arrived, layer=arrived)
    assert [one.name for one in result.not_compared] == [QUERY]
    assert (result.first_divergent_module, result.side) == (HOLDER, "infer")


def permuted(last_takes: float) -> Localisation:
    """BLOOM's fused projection has its heads in another order, 1.3 off, in an attention that is
    another thing itself; `last_takes` is the error of what the last projection takes.
    """
    qkv, last = f"{HOLDER}.query_key_value", f"{HOLDER}.o_proj"
    given = dict.fromkeys(MODULES, EXACT) | {
        qkv: Err(1.3, 0.0, 2e-7), HOLDER: Err(0.9, 0.0, 3e-7),
        "model.layers.0": Err(1e-4, 0.0, 3e-7), f"{last}:in": Err(last_takes, 0.0, 3e-7),
    }  # fmt: skip
    captures = recorded(given)
    for name, one in captures.items():
        taken = {f"{last}:in": 2 * one.hidden[f"{last}:in"]}  # no other's output as it is
        captures[name] = replace(one, tap_order=(qkv, last, HOLDER), hidden=one.hidden | taken)
    return found(captures, "float32")


def test_heads_in_another_order_reach_nothing() -> None:
    qkv = f"{HOLDER}.query_key_value"
    assert [one.name for one in permuted(1e-6).not_compared] == [qkv, HOLDER]
    assert permuted(0.3).first_divergent_module == qkv


def test_a_block_that_holds_the_residual_on_one_side_is_another_thing() -> None:
    """BLOOM: attention and MLP add the residual in transformers, the layer in vLLM."""
    result = in_float32(self_attn=Err(0.9, 0.0, 3e-7), layer=Err(1e-4, 0.0, 3e-7))
    assert [one.name for one in result.not_compared] == [HOLDER]
    assert result.first_divergent_module == "model.layers.0"


def test_an_error_too_small_to_show_in_what_holds_it_counts() -> None:
    """bfloat16: 0.2 / 20 = 0.01 would be lost within the attention's limit of 3 times 0.01."""
    captures = recorded({QUERY: Err(infer=0.2), HOLDER: Err(infer=0.012)})
    assert found(captures).first_divergent_module == QUERY


def test_the_trainers_own_part_is_what_it_is_called() -> None:
    """Trainer and reference are one program: what differs there is a defect, wherever it goes."""
    result = in_float32(q_norm=Err(0.0, 1.4, 6e-8), self_attn=Err(6e-7, 0.0, 3e-7))
    assert (result.first_divergent_module, result.side) == (QUERY, "train")


def test_parts_that_are_wired_otherwise_are_not_compared() -> None:
    """In transformers the norm's output is what the MLP takes; in the engine it is not."""
    norm, taken = "model.layers.0.input_layernorm", "model.layers.0.mlp:in"
    captures = recorded({norm: Err(infer=0.8)})
    for name, one in captures.items():
        as_given = one.hidden[norm] if name != "prefill" else state(0, 0, 0)
        captures[name] = replace(one, hidden=one.hidden | {taken: as_given})
    result = found(captures)
    assert result.first_divergent_module is None
    assert [one.name for one in result.not_compared] == [norm]
    assert "model.layers.0.mlp" in result.not_compared[0].why
    captures["prefill"].hidden[taken] = captures["prefill"].hidden[norm]
    assert found(captures).first_divergent_module == norm


def test_what_the_engine_could_not_record_is_said_with_its_reason() -> None:
    captures = recorded({})
    hidden = {n: a for n, a in captures["prefill"].hidden.items() if n != "model.norm"}
    why = "it runs several times in one forward"
    captures["prefill"] = replace(
        captures["prefill"], hidden=hidden, not_recorded={"model.norm": why}
    )
    assert [(m.name, m.why) for m in found(captures).not_compared] == [("model.norm", why)]


def test_a_module_that_keeps_to_float32_has_the_floor_of_a_product() -> None:
    """A router over 100 features, no different in float64: sqrt(100) roundoffs of 2^-24 = 6e-7."""
    router = "model.layers.0.mlp.router"
    captures = recorded(dict.fromkeys(MODULES, EXACT) | {router: Err(1.7e-6, 0.0, 0.0)})
    wide = np.ones((POSITIONS, 100), np.float32)
    for one in captures.values():
        one.hidden[f"{router}:in"] = wide
    of = module(captures, router, "float32")
    assert of.floor == pytest.approx(10 * 2**-24)
    assert not of.diverges  # the limit is 1.8e-6


def test_modules_are_judged_in_the_order_in_which_they_ran() -> None:
    wrong = Err(infer=0.3)
    captures = recorded({"model.layers.0.mlp": wrong, "model.layers.0.self_attn.v_proj": wrong})
    order = ("model.embed_tokens", "model.layers.0.mlp", "model.layers.0.self_attn.v_proj")
    captures["train"] = replace(captures["train"], tap_order=order)
    assert found(captures).first_divergent_module == "model.layers.0.mlp"
