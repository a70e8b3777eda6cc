"""The same model in float32 is the same policy, whatever the engine and however many ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mismatch_lab.engines.jobs import Job, ScoreJob, Stage
from mismatch_lab.findings.weights import compare_weights
from mismatch_lab.schema import SideSpec


def test_hf_and_fsdp_of_one_rank_agree(recorded: Any, rounding_nats: Any) -> None:
    """To the bit on most processors; on others a kernel's sums go by where a weight lies."""
    hf, fsdp = recorded("hf").capture("prefill"), recorded("fsdp").capture("prefill")
    np.testing.assert_allclose(hf.logp, fsdp.logp, rtol=0, atol=rounding_nats(hf.logp))
    np.testing.assert_array_equal(hf.router_topk, fsdp.router_topk)
    assert hf.weights == fsdp.weights


def test_two_ranks_score_as_one_does(recorded: Any, lab: Any, rounding_nats: Any) -> None:
    one = recorded("fsdp")
    spec = SideSpec(
        side="train", engine="fsdp", model=lab.model, dtype="float32", args={"world_size": 2}
    )
    plan = {"plan": one_plan(), "probes": True, "taps": True, "routing": True}
    jobs: list[Job] = [
        ScoreJob.model_validate({"id": "fsdp-two", "source": "hf-decode", **plan}),
        ScoreJob(id="fsdp-two-bare", source="hf-decode", fingerprint=True),
    ]
    two = lab.run("fsdp-two", Stage(spec=spec, jobs=jobs))
    assert two.ended_with is None
    whole, split = one.capture("prefill"), two.capture("two")
    np.testing.assert_allclose(split.logp, whole.logp, atol=rounding_nats(whole.logp))
    np.testing.assert_allclose(
        split.probe_logp, whole.probe_logp, atol=rounding_nats(whole.probe_logp)
    )
    np.testing.assert_array_equal(split.router_topk, whole.router_topk)
    np.testing.assert_allclose(
        two.capture("two-bare").logp, whole.logp, atol=rounding_nats(whole.logp)
    )
    assert two.capture("two-bare").weights == whole.weights
    for name, hidden in whole.hidden.items():
        np.testing.assert_allclose(split.hidden[name], hidden, rtol=1e-4, atol=1e-4)


def one_plan() -> dict[str, int]:
    """That of conftest.py."""
    return {"probe_positions": 24, "tap_rows": 2, "tap_tokens": 48}


@pytest.mark.sglang
def test_sglang_and_hf_agree_on_what_sglang_sampled(lab: Any, recorded: Any) -> None:
    sglang = recorded("sglang")
    spec = SideSpec(side="train", engine="hf", model=lab.model_of("sglang"), dtype="float32")
    job = ScoreJob.model_validate(
        {
            **{"id": "hf-on-sglang", "source": "sglang-decode", "plan": one_plan()},
            **{"probes": True, "taps": True, "routing": True, "fingerprint": True},
        }
    )
    ran = lab.run("hf-on-sglang", Stage(spec=spec, jobs=[job]))
    assert ran.ended_with is None
    hf, prefill = ran.capture("on-sglang"), sglang.capture("prefill")
    for scored in (sglang.capture("decode"), prefill):
        delta = (hf.logp - scored.logp)[hf.rows.sampled]
        assert len(delta) > 30
        assert np.abs(delta).max() < 2e-5
    np.testing.assert_allclose(prefill.probe_logp, hf.probe_logp, atol=1e-4)
    np.testing.assert_array_equal(prefill.router_topk, hf.router_topk)
    np.testing.assert_allclose(prefill.router_logits, hf.router_logits, atol=1e-4)
    missing = set(hf.hidden) - set(prefill.hidden)
    assert {name.removesuffix(":in").rpartition(".")[2] for name in missing} == {"q_norm", "k_norm"}
    for name in set(hf.hidden) - missing:
        tapped = np.isfinite(hf.hidden[name]).all(axis=-1)
        np.testing.assert_allclose(
            prefill.hidden[name][tapped], hf.hidden[name][tapped], atol=1e-4, err_msg=name
        )
    found = compare_weights([prefill.weights], hf.weights)
    assert (found.differing, found.unseen) == ((), ())


@pytest.mark.vllm
def test_vllm_agrees_with_hf_on_sampled_tokens(recorded: Any) -> None:
    vllm, hf = recorded("vllm").capture("on-hf"), recorded("hf").capture("prefill")
    np.testing.assert_array_equal(vllm.rows.token_ids, hf.rows.token_ids)
    delta = (hf.logp - vllm.logp)[hf.rows.sampled]
    assert len(delta) > 30
    assert np.abs(delta).mean() < 1e-4
    assert np.abs(delta).max() < 1e-3
    np.testing.assert_allclose(vllm.probe_logp, hf.probe_logp, atol=1e-3)


@pytest.mark.vllm
def test_vllm_and_hf_tap_the_same_modules_at_the_same_places(recorded: Any) -> None:
    vllm, hf = recorded("vllm").capture("on-hf"), recorded("hf").capture("prefill")
    assert set(hf.hidden) <= set(vllm.hidden)
    for name, ours in hf.hidden.items():
        theirs, tapped = vllm.hidden[name], np.isfinite(ours).all(axis=-1)
        assert theirs.shape == ours.shape, name
        assert tapped.sum() > 30, name
        difference = np.linalg.norm((theirs - ours)[tapped])
        assert difference < 1e-4 * np.linalg.norm(ours[tapped]), name


@pytest.mark.vllm
def test_vllm_and_hf_route_alike(recorded: Any) -> None:
    vllm, hf = recorded("vllm").capture("on-hf"), recorded("hf").capture("prefill")
    np.testing.assert_allclose(vllm.router_logits, hf.router_logits, atol=1e-3)
    np.testing.assert_array_equal(vllm.router_topk, hf.router_topk)


@pytest.mark.vllm
def test_vllm_holds_the_weights_of_hf_bit_for_bit(recorded: Any) -> None:
    vllm, hf = (recorded(name).capture("prefill").weights for name in ("vllm", "hf"))
    found = compare_weights([vllm], hf)
    assert (found.differing, found.unseen) == ((), ())
    # The order of the elements is known of all of them: experts that vLLM has transposed too.
    assert all(one.placed is not None for one in vllm.values())
