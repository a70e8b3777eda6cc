"""Diagnoses of the fake engine, in processes of its own: what is planted is what is found.

Every run is at depth standard on some 400 tokens; the report is written in test_diagnose_fake.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mismatch_lab.engines.fake_defects import TENSOR
from mismatch_lab.report import page
from mismatch_lab.run import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings


@pytest.fixture
def found(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Findings:
    """Findings of the options that the test is parametrized with."""
    monkeypatch.setattr(page, "write_report", lambda folder: folder)
    asked = DiagnoseRequest(
        model="fake", probe=str(probe), engine="fake", trainer="fake", depth="standard"
    )
    run = build_run(replace(asked, **request.param))
    return diagnose.diagnose(run, tmp_path / "run", False, lambda event: None)


def abs_delta(found: Findings, edge: str) -> float:
    return found.edges[edge]["abs_delta_mean"].value


@pytest.mark.parametrize("found", [{"dtype": "float32"}], indirect=True, ids=str)
def test_float32_on_healthy_sides_is_a_match(found: Findings) -> None:
    assert found.verdict.status == "match"
    # Some ten modules, each with 2^-24 = 6e-8 of its output, on logits of deviation 4.
    assert 1e-8 < abs_delta(found, "decode_train") < 1e-5
    assert found.edges["decode_train"]["abs_delta_mean"].n > 256
    assert abs_delta(found, "train_train") == abs_delta(found, "infer_infer") == 0.0
    assert found.localisation is not None
    assert found.localisation.first_divergent_module is None
    assert found.weights == []


@pytest.mark.parametrize("found", [{"dtype": "bfloat16"}], indirect=True, ids=str)
def test_bfloat16_on_healthy_sides_is_numerics(found: Findings) -> None:
    assert found.verdict.status == "numerics"
    assert [cause.id for cause in found.verdict.causes] == ["numerics-floor"]
    assert abs_delta(found, "decode_train") > 1e-3
    floor = found.noise_floor
    assert floor is not None
    for ratio in (floor.infer_ratio, floor.train_ratio, floor.edge_ratio):
        assert 0.5 < ratio.value < 2.0
    assert found.routing is not None
    flipped, unflipped = found.routing.abs_delta_flipped, found.routing.abs_delta_unflipped
    assert flipped.value > 2 * unflipped.value  # expert flips make the tail
    assert found.localisation is not None
    assert found.localisation.first_divergent_module is None


def planted(side: str, defect: str) -> dict[str, object]:
    return {"dtype": "bfloat16", f"{side}_args": (f"defect={defect}",)}


@pytest.mark.parametrize(
    ("found", "side", "module"),
    [
        (planted("engine", "attention_layer0"), "infer", "model.layers.0.self_attn"),
        (planted("trainer", "router_bias"), "train", "model.layers.0.mlp.router"),
        (planted("engine", "tensor"), "infer", TENSOR.removesuffix(".weight")),
        (planted("trainer", "lm_head_scale"), "train", "lm_head"),
    ],
    indirect=["found"],
    ids=["engine-attention", "trainer-router", "engine-tensor", "trainer-head"],
)
def test_a_defect_in_a_module_is_named_with_its_side(
    found: Findings, side: str, module: str
) -> None:
    assert found.verdict.status == "mismatch"
    assert found.localisation is not None
    assert found.localisation.first_divergent_module == module
    assert found.localisation.side == side
    assert module in found.verdict.headline
    wrong, right = ("infer_ref", "train_ref") if side == "infer" else ("train_ref", "infer_ref")
    assert abs_delta(found, wrong) > 3 * abs_delta(found, right)
    # Only a changed weight shows in the weights: v_proj is compared in its fused form.
    fused = ["model.layers.1.self_attn.qkv_proj.weight"] if "v_proj" in module else []
    assert found.weights == fused


@pytest.mark.parametrize(
    ("found", "broken", "whole"),
    [
        # The engine returns something else than it computes; its re-scoring is right.
        (planted("engine", "decode"), "decode_prefill", "prefill_train"),
        # The trainer puts log-probs one token too far to the right.
        (planted("trainer", "shift"), "prefill_train", "decode_prefill"),
    ],
    indirect=["found"],
    ids=["engine-decode", "trainer-shift"],
)
def test_a_defect_outside_the_modules_shows_in_its_edge(
    found: Findings, broken: str, whole: str
) -> None:
    assert found.verdict.status == "mismatch"
    assert abs_delta(found, broken) > 3 * abs_delta(found, whole)
    assert found.localisation is not None
    assert found.localisation.first_divergent_module is None
    assert found.weights == []


@pytest.mark.parametrize(
    "found", [planted("trainer", "nan_row") | {"dtype": "float32"}], indirect=True, ids=["trainer"]
)
def test_log_probs_that_are_no_numbers_are_a_finding_about_their_tokens(found: Findings) -> None:
    assert found.verdict.status == "mismatch"
    (odd,) = found.odd_tokens
    assert (odd.capture, odd.side, odd.kind) == ("train", "train", "missing")
    assert {token.row for token in odd.tokens} == {0}
    delta = found.edges["decode_train"]["abs_delta_mean"]
    assert (delta.n_dropped, delta.n + delta.n_dropped) == (odd.n, odd.of)
    assert f"{odd.n} of {odd.of}" in found.verdict.headline
    assert [(c.id, c.side) for c in found.verdict.causes][:1] == [("missing-logprobs", "train")]
    (left,) = found.verdict.causes[0].confirmed_by
    assert left.after < 1e-5  # the rest is at the floor of float32
