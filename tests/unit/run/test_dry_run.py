"""The plan of a run says what would be done, and nothing that would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.errors import InputError
from mismatch_lab.run.dry_run import DryRun, PlannedSuspect, plan_run
from mismatch_lab.run.request import DiagnoseRequest, build_run

PLUGIN = Path(__file__).parents[3] / "examples" / "plugins.py"


def plan(**options: object) -> DryRun:
    return plan_run(build_run(DiagnoseRequest("mini-gpt-oss", **options)))  # type: ignore[arg-type]


def suspect(planned: DryRun, name: str) -> PlannedSuspect:
    return next(s for s in planned.suspects if s.suspect == name)


def causes(planned: DryRun, name: str) -> set[str]:
    return {trial.cause for trial in suspect(planned, name).trials}


def test_captures_are_those_of_the_run() -> None:
    planned = plan(depth="quick", max_tokens=7)
    assert [capture.id for capture in planned.captures] == [
        "decode", "prefill", "prefill_repeat", "train", "train_repeat", "train_micro_batch",
        "train_mode", "ref", "floor",
    ]  # fmt: skip
    assert "at most 7 tokens" in planned.captures[0].does
    assert "first 8 rows" in planned.captures[2].does
    assert "training mode" in planned.captures[6].does
    assert [c.dtype for c in planned.captures[-2:]] == ["float32", "bfloat16"]
    assert planned.budget_s == THRESHOLDS.budget_s
    standard = {capture.id: capture.does for capture in plan(depth="standard").captures}
    assert "inputs of prefill" in standard["train_on_infer"]
    assert "modules" in standard["train"]


def test_each_suspect_has_its_own_trials() -> None:
    planned = plan()
    assert "sampler-truncation" in causes(planned, "decode")
    assert "sampling-penalties" not in causes(planned, "train") | causes(planned, "infer")
    assert "attention-sinks-dropped" in causes(planned, "train")
    # vLLM on a CPU reads its narrow cache back while re-scoring too; a trainer has none.
    assert "kv-cache-quantisation" in causes(planned, "decode") & causes(planned, "infer")
    assert "kv-cache-quantisation" not in causes(planned, "train")
    top_k = next(t for t in suspect(planned, "decode").trials if "top-k" in t.supposed)
    assert (top_k.values, top_k.refined) == (16, True)  # and every number between the best two
    scale = next(t for t in suspect(planned, "train").trials if t.cause == "logit-scale")
    assert (scale.values, scale.refined) == (8, True)  # four factors below 1 and four above


def test_what_is_tried_follows_the_options() -> None:
    assert "raw-logprobs-temperature" not in causes(plan(), "decode")
    assert "raw-logprobs-temperature" in causes(plan(temperature=0.7), "decode")
    assert "packing-leak" not in causes(plan(), "train")
    assert "packing-leak" in causes(plan(trainer_args=("packing=true",)), "train")
    # A declared top-p is the one that is tried, beside tokens that are banned.
    declared = suspect(plan(top_p=0.8), "decode").trials
    assert [t.values for t in declared if t.cause == "sampler-truncation"] == [1, 6]


def test_parts_can_be_put_back_where_a_plugin_changed_them() -> None:
    assert [k for k in plan().experiments if k.does.startswith("stock ")] == []
    experiments = plan(trainer_plugin=f"{PLUGIN}:drop_sinks").experiments
    stock = [k for k in experiments if k.does.startswith("stock ")]
    assert {k.side for k in stock} == {"train"}
    assert any("attention-sinks-dropped" in k.takes_away for k in stock)
    # What somebody changed comes before what nobody did.
    others = [experiments.index(k) for k in experiments if k.does == "eager experts"]
    assert max(experiments.index(k) for k in stock) < min(others)


def test_what_the_user_set_is_the_first_suspect() -> None:
    first = plan(engine_args=("kv_cache_dtype=fp8",)).experiments[0]
    assert (first.side, first.takes_away) == ("infer", ["kv-cache-quantisation"])


def test_both_sides_can_load_tensors_again() -> None:
    again = [k for k in plan().experiments if k.does.endswith("loaded again")]
    assert [k.side for k in again] == ["train", "infer"]


def test_a_plugin_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="does not exist"):
        plan(trainer_plugin="nowhere.py:f")
