"""Every cause predicts what the model's config warrants, in terms that can be tried."""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from builders import features

from mismatch_lab.attribution import predictions
from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.changes import ID_CHANGES, ROW_CHANGES, TOKEN_CHANGES
from mismatch_lab.attribution.hypotheses import Features, Hypothesis
from mismatch_lab.attribution.predictions import (
    IN_SAMPLING_ALONE,
    PREDICTIONS,
    distributions,
    hypotheses_for,
)
from mismatch_lab.interventions import ALTERATIONS
from mismatch_lab.schema import Sampling

YARN = {"rope_type": "yarn", "factor": 8.0}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 8,
        "sliding_window": 32,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": YARN,
    },
    "gemma2": {
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
}
PROJECTIONS = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight")
TENSORS = (*PROJECTIONS, "model.norm.weight")
ANY_MODEL = {
    "logprob-precision", "shift-by-one", "logit-scale", "logit-softcap", "vocab-padding",
    "lm-head-precision", "norm-precision", "rope-precision", "rope-theta", "weight-quantisation",
}  # fmt: skip
MOE = {
    "router-precision", "router-renormalisation", "router-bias", "expert-bias", "expert-layout",
}  # fmt: skip
ENGINE = {"sampler-truncation", "kv-cache-quantisation", "wrong-candidate"}
SAMPLING = ENGINE | {
    "logit-scale", "logprob-precision", "shift-by-one", "sampler-truncation", "sampling-penalties",
}  # fmt: skip


def circumstances() -> list[Features]:
    """All suspects of all models, with everything that can be known of a run."""
    known: dict[str, Any] = {
        "sampling": Sampling(temperature=0.7),
        "weights_before": "before",
        "changed": TENSORS,
        "packed": True,
        "dtype": "float32",
        "impossible": True,
        "masked": ((7, 9),),
    }
    updates = (known, known | {"low_rank": PROJECTIONS}, known | {"sampling": Sampling(top_p=0.9)})
    return [
        features(suspect, {"vocab_size": 512} | config, **update)
        for suspect in ("train", "infer", "decode")
        for config in MODELS.values()
        for update in updates
    ]


def every() -> list[Hypothesis]:
    return [h for one in circumstances() for h in hypotheses_for(one)]


def causes_of(one: Features) -> set[str]:
    return {h.cause for h in hypotheses_for(one)}


def labels(cause: str, one: Features) -> list[str]:
    return [h.label for h in PREDICTIONS[cause](one)]


# ---- the table ---------------------------------------------------------------------------------


def test_every_function_of_the_package_is_in_the_table() -> None:
    functions = {
        function
        for info in iter_modules(predictions.__path__)
        for _, function in inspect.getmembers(
            import_module(f"{predictions.__name__}.{info.name}"), inspect.isfunction
        )
        if inspect.signature(function).return_annotation == "list[Hypothesis]"
        and list(inspect.signature(function).parameters) == ["features"]
    }
    assert functions == set(PREDICTIONS.values())
    assert len(PREDICTIONS) == len(functions)
    assert set(IN_SAMPLING_ALONE) <= set(PREDICTIONS) <= set(CAUSES)


def test_each_cause_of_the_table_is_predicted_of_some_run() -> None:
    predicted = {h.cause for h in every()}
    assert set(PREDICTIONS) <= predicted
    # Kinds of others: a window in decoding alone, a graph with old weights, a head of its own.
    assert predicted - set(PREDICTIONS) == {
        "decode-prefill-divergence", "stale-graph", "untied-head",
    }  # fmt: skip
    assert predicted <= set(CAUSES)


def test_what_is_predicted_can_be_tried() -> None:
    for hypothesis in every():
        assert {a.name for a in hypothesis.model} <= set(ALTERATIONS)
        assert {c.name for c in hypothesis.rows} <= {*ROW_CHANGES, *ID_CHANGES}
        assert {c.name for c in hypothesis.tokens} <= set(TOKEN_CHANGES)
        assert hypothesis.model or hypothesis.rows or hypothesis.tokens or hypothesis.packing
        assert hypothesis.label
        if hypothesis.search is not None:
            grid = hypothesis.search.grid
            assert len(set(grid)) == len(grid) >= 2
            assert hypothesis.search.refine != "log" or min(grid) > 0
            assert hypothesis.at(grid[0]).value == grid[0]


def test_no_two_hypotheses_of_a_run_are_the_same() -> None:
    for one in circumstances():
        found = [replace(h, cause="", label="") for h in hypotheses_for(one)]
        assert len(set(found)) == len(found)


def test_a_refined_number_counts_as_fitted() -> None:
    for hypothesis in every():
        refined = hypothesis.search is not None and hypothesis.search.refine != "no"
        assert hypothesis.fitted == 1 or not refined, hypothesis.label


# ---- what warrants what ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("llama", {"attention-scale"}),
        ("gpt_oss", MOE | {"attention-scale", "rope-scaling", "sliding-window"}),
        ("gemma2", {"attention-scale", "attention-softcap", "sliding-window"}),
    ],
)
def test_a_part_that_is_missing_is_not_wrong(model: str, more: set[str]) -> None:
    config = MODELS[model]
    assert causes_of(features("infer", config, tensors=())) == ANY_MODEL | ENGINE | more
    assert causes_of(features("train", config, tensors=())) == ANY_MODEL | more
    windows = {"decode-prefill-divergence"} if "sliding-window" in more else set()
    assert causes_of(features("decode", config)) == SAMPLING | windows


def test_only_some_rotary_scalings_have_an_attention_factor() -> None:
    factor = "queries and keys times a constant (YaRN's mscale)"
    for kind, has in (("yarn", True), ("longrope", True), ("llama3", False), ("linear", False)):
        one = features("train", {"rope_parameters": {"rope_type": kind, "factor": 4.0}})
        assert (factor in labels("rope-scaling", one)) == has, kind
        assert len(labels("attention-scale", one)) == 1, kind


def test_sinks_are_known_by_their_tensors() -> None:
    sinks = ("model.layers.0.self_attn.sinks",)
    for tensors, tried in ((sinks, 1), (None, 1), (TENSORS, 0), ((), 0)):
        found = labels("attention-sinks-dropped", features("infer", {}, tensors=tensors))
        assert len(found) == tried, tensors


def test_a_temperature_of_one_cannot_be_left_out() -> None:
    assert labels("raw-logprobs-temperature", features()) == []
    assert (
        len(labels("raw-logprobs-temperature", features(sampling=Sampling(temperature=0.5)))) == 2
    )


def test_a_declared_top_p_is_what_is_tried() -> None:
    declared, banned = PREDICTIONS["sampler-truncation"](features(sampling=Sampling(top_p=0.9)))
    assert [c.name for c in banned.rows] == ["never_drawn"]
    assert [(c.name, c.value) for c in declared.rows] == [("top_p", 0.9)]
    assert declared.search is None
    assert len(labels("sampler-truncation", features())) == 4  # top-p, top-k, min-p, banned


def test_widths_around_that_of_the_config() -> None:
    found = PREDICTIONS["sliding-window"](features("infer", MODELS["gpt_oss"]))
    assert [h.model[0].value for h in found[:3]] == [0, 33, 31]
    assert all(h.location == "model.layers.1.self_attn" for h in found)  # the first sliding layer
    search = found[3].search
    assert search is not None
    assert 32.0 not in search.grid
    assert {8.0, 16.0, 24.0, 64.0, 128.0} <= set(search.grid)
    off = MODELS["gpt_oss"] | {"use_sliding_window": False}
    assert labels("sliding-window", features("infer", off)) == []
    assert labels("sliding-window", features("infer", {"sliding_window": None})) == []


def test_a_cap_can_be_dropped_where_there_is_one_and_added_where_not() -> None:
    there = PREDICTIONS["logit-softcap"](features("infer", MODELS["gemma2"]))
    assert [h.model[0].value for h in there] == [0.0, None]
    assert there[1].search is not None
    assert there[1].search.grid == (15.0, 24.0, 37.5, 60.0, 120.0)
    (added,) = PREDICTIONS["logit-softcap"](features("infer", MODELS["llama"]))
    assert [c.name for c in added.rows] == ["softcap"]


def test_scaling_can_be_lost_where_there_is_some() -> None:
    assert labels("rope-scaling", features("infer", MODELS["llama"])) == []
    assert len(labels("rope-scaling", features("infer", MODELS["gpt_oss"]))) == 3
    older = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert len(labels("rope-scaling", features("infer", older))) == 2


def test_packing_takes_a_trainer_that_is_known_to_pack() -> None:
    assert len(labels("packing-leak", features("train", packed=True))) == 2
    assert labels("packing-leak", features("train", packed=False)) == []
    assert labels("packing-leak", features("infer", packed=True)) == []


def test_old_weights_take_an_update() -> None:
    stale = {"stale-weights", "stale-tensor", "adapter-not-delivered", "stale-graph", "untied-head"}
    assert not causes_of(features("infer", MODELS["tied"])) & stale
    updated: dict[str, Any] = {"weights_before": "before", "changed": TENSORS}
    assert causes_of(features("infer", {}, **updated)) & stale == {"stale-weights", "stale-tensor"}
    assert causes_of(features("infer", MODELS["tied"], **updated)) & stale == {
        "stale-weights", "stale-tensor", "untied-head",
    }  # fmt: skip
    assert causes_of(features("decode", {}, **updated)) & stale == {"stale-graph"}
    (all_old,) = PREDICTIONS["stale-weights"](features("infer", {}, **updated))
    assert (all_old.model[0].value, all_old.model[0].tensors) == ("before", None)
    single = PREDICTIONS["stale-tensor"](features("infer", {}, **updated))
    assert [h.model[0].tensors for h in single] == [(name,) for name in TENSORS]


def test_an_adapter_is_told_by_rank_or_by_what_it_changed() -> None:
    low = features("infer", weights_before="b", changed=TENSORS, low_rank=PROJECTIONS)
    (missing,) = PREDICTIONS["adapter-not-delivered"](low)
    assert missing.model[0].tensors == PROJECTIONS
    assert len(labels("stale-weights", low)) == 1  # a norm changed too
    projections = features("infer", weights_before="b", changed=PROJECTIONS)
    assert len(labels("adapter-not-delivered", projections)) == 1
    assert labels("stale-weights", projections) == []  # the same, by its better name
    assert (
        labels("adapter-not-delivered", features("infer", weights_before="b", changed=TENSORS))
        == []
    )


def test_of_many_changed_tensors_none_is_tried_alone() -> None:
    many = tuple(f"t{i}" for i in range(61))
    assert labels("stale-tensor", features("infer", weights_before="b", changed=many)) == []
    assert (
        len(labels("stale-tensor", features("infer", weights_before="b", changed=many[1:]))) == 60
    )


def test_shards_are_cut_as_torch_vllm_and_megatron_do() -> None:
    # 201088 = 8 * 25136 is a multiple of 64; to 128 * 8 it is padded to 197 * 1024 = 8 * 25216.
    assert distributions.shard_widths(201088, 8) == [25136, 25216]
    # 100: torch cuts 50, vLLM pads to 128 = 2 * 64, Megatron to 256: one rank would have it all.
    assert distributions.shard_widths(100, 2) == [50, 64]
    assert distributions.shard_widths(0, 4) == []


def test_a_normaliser_that_misses_a_part_lowers_no_log_prob() -> None:
    config = {"vocab_size": 512}
    assert "partial-normaliser" in causes_of(features("train", config))
    assert "partial-normaliser" not in causes_of(features("train", config, raises_only=False))


def test_a_mask_is_supposed_only_where_a_sampled_token_is_impossible() -> None:
    assert "impossible-token" not in causes_of(features("train", masked=((7, 9),)))
    assert "impossible-token" in causes_of(features("train", impossible=True))
    labels_of = labels("impossible-token", features("train", impossible=True, masked=((7, 9),)))
    assert labels_of[0].startswith("2 entries of the vocabulary are masked")


def test_a_record_without_a_re_scoring_shows_what_sampling_does() -> None:
    once = features(suspect="infer", rescored=False)
    again = features(suspect="infer")
    ids = {h.cause for h in hypotheses_for(once)} - {h.cause for h in hypotheses_for(again)}
    assert ids == {"sampling-penalties"}
    labels = {h.label for h in hypotheses_for(once) if h.cause == "sampler-truncation"}
    assert "renormalised over what top-p keeps" in labels
    declared = features(suspect="infer", rescored=False, sampling=Sampling(top_p=0.8))
    labels = {h.label for h in hypotheses_for(declared) if h.cause == "sampler-truncation"}
    assert "renormalised over top-p 0.8" in labels
