"""What is put right on a side itself, and what is left then.

Which cause it is by which tensors differ.
"""

from __future__ import annotations

import numpy as np
import pytest
from builders import answered, run_of, side

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.repairs import (
    EXPLAINED_BY,
    error_of,
    kind_of_change,
    repair_for,
    resync,
    unexplained,
)

PLUGGED = run_of(train=side("train", plugin="file.py:plant"))


def test_dropout_is_disabled() -> None:
    repair = repair_for("dropout-active", run_of())
    assert repair is not None
    assert repair.spec.no_dropout
    assert repair.label == "dropout disabled"


def test_modules_are_put_back_where_a_plugin_may_have_changed_them() -> None:
    repair = repair_for("expert-layout", PLUGGED)
    assert repair is not None
    assert repair.spec.stock == ("*.mlp", "config")
    assert repair.spec.plugin == "file.py:plant"
    assert repair.spec.side == "train"
    assert repair_for("expert-layout", run_of()) is None  # a stock trainer has nothing to put back


def test_other_causes_have_no_repair() -> None:
    assert repair_for("shift-by-one", PLUGGED) is None
    assert repair_for("numerics-floor", PLUGGED) is None


def test_tensors_are_loaded_again() -> None:
    repair = resync(side("infer"), ("a", "b", "c"))
    assert repair.spec.resync == ("a", "b", "c")
    assert repair.label == "a, b and 1 more loaded again"
    assert resync(side("infer"), ("a",)).label == "a loaded again"


def test_the_error_that_is_left_is_of_sampled_tokens() -> None:
    # The prompt counts for nothing, nor does what is no number: |-1 + 1.5| alone.
    expected = np.array([-9.0, -1.5, np.nan])
    assert error_of(answered([-1.0, -2.0]), expected) == pytest.approx(0.5)


LAYER = (
    "self_attn.q_proj.weight", "self_attn.o_proj.weight", "self_attn.sinks",
    "mlp.router.weight", "mlp.router.bias", "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj_bias", "input_layernorm.weight",
)  # fmt: skip
EVERY = (
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{name}" for i in range(2) for name in LAYER),
    "model.norm.weight",
    "lm_head.weight",
)
MATRICES = tuple(n for n in EVERY if n.endswith(("q_proj.weight", "o_proj.weight", "gate_up_proj")))


def kind(*tensors: str, tied: bool = False) -> str:
    return kind_of_change(tensors, EVERY, tied)[0]


def test_few_tensors_are_stale_ones() -> None:
    assert kind("model.layers.0.self_attn.q_proj.weight") == "stale-tensor"
    assert kind("model.norm.weight", "model.embed_tokens.weight") == "stale-tensor"


def test_nearly_all_are_the_weights_of_before() -> None:
    assert len(EVERY) == 19
    assert kind(*EVERY) == "stale-weights"
    assert kind(*EVERY[1:]) == "stale-weights"  # 18 of 19
    assert kind(*EVERY[2:]) == "stale-tensor"  # 17 are 89 %


def test_every_matrix_and_nothing_else_was_quantised() -> None:
    assert len(MATRICES) == 6
    assert kind(*MATRICES) == "weight-quantisation"
    assert kind(*MATRICES[1:]) == "stale-tensor"
    assert kind(*MATRICES, "model.norm.weight") == "stale-tensor"


def test_biases_of_routers() -> None:
    biases = [f"model.layers.{i}.mlp.router.bias" for i in range(2)]
    assert kind(*biases) == "router-bias"
    assert kind("model.layers.0.mlp.gate.e_score_correction_bias") == "router-bias"
    assert kind(*biases, "model.norm.weight") == "stale-tensor"


def test_biases_of_experts() -> None:
    biases = [f"model.layers.0.mlp.experts.{part}_proj_bias" for part in ("gate_up", "down")]
    assert kind(*biases) == "expert-bias"
    assert kind(*biases, "model.layers.0.mlp.experts.down_proj") == "stale-tensor"


def test_a_head_alone_is_untied_where_it_should_be_the_embedding() -> None:
    assert kind("lm_head.weight", tied=True) == "untied-head"
    assert kind("lm_head.weight") == "stale-tensor"


@pytest.mark.parametrize(
    ("cause", "left"),
    [
        ("attention-sinks-dropped", ("model.layers.0.mlp.router.bias",)),
        ("router-bias", ("model.layers.0.self_attn.sinks",)),
        ("stale-tensor", ()),
        ("rope-theta", ("model.layers.0.self_attn.sinks", "model.layers.0.mlp.router.bias")),
    ],
)
def test_what_a_named_cause_leaves_unexplained(cause: str, left: tuple[str, ...]) -> None:
    differ = ("model.layers.0.self_attn.sinks", "model.layers.0.mlp.router.bias")
    assert unexplained(differ, {cause}) == left


def test_several_causes_explain_together() -> None:
    differ = (
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj_bias",
    )
    assert unexplained(differ, {"expert-layout", "expert-bias"}) == ()
    assert unexplained(differ, set()) == differ


def test_every_cause_of_weights_is_in_the_catalogue() -> None:
    assert set(EXPLAINED_BY) <= set(CAUSES)
