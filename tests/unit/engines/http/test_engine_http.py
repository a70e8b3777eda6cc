"""Engine `http` on fakes of both servers: every number is the table's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import Sampling

KINDS = ("vllm", "sglang")
Connect = Callable[..., Any]


def quiet(*_: Any) -> None:
    """A progress that is not shown."""


def request(rows: Any, **more: Any) -> ScoreRequest:
    """Whole distributions at every sampled token."""
    return ScoreRequest(probe_positions=np.flatnonzero(rows.sampled), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_and_scored_log_probs_are_those_of_the_server(
    kind: str, connect: Connect, fakes: Any, sample: Any, expected: Any
) -> None:
    engine = connect(fakes.Settings(kind=kind))
    decode = sample(engine)
    assert np.diff(decode.rows.row_offsets).tolist() == [3 + 6] * 4
    wanted = expected(decode.rows)
    sampled = decode.rows.sampled
    np.testing.assert_allclose(decode.logp[sampled], wanted[sampled], atol=1e-6)
    assert np.isnan(decode.logp[~sampled]).all()
    prefill = engine.score(decode.rows, request(decode.rows), quiet)
    np.testing.assert_allclose(prefill.logp, wanted, atol=1e-6)
    assert prefill.probe_logp.shape == (4 * 6, 576)
    np.testing.assert_allclose(np.exp(prefill.probe_logp).sum(-1), 1, atol=1e-5)
    silent = {"dtype"} if kind == "vllm" else set()
    elsewhere = "whether it serves MODEL"
    assert set(prefill.not_recorded) == {"fingerprints", elsewhere} | silent
    assert "/models/mini-gpt-oss" in prefill.not_recorded[elsewhere]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processed", [True, False])
def test_whether_log_probs_are_processed_is_found_out(
    kind: str, processed: bool, connect: Connect, fakes: Any, sample: Any, expected: Any
) -> None:
    engine = connect(fakes.Settings(kind=kind, processed=processed))
    assert engine.logprob_space == ("processed" if processed else "raw")
    decode = sample(engine, Sampling(max_tokens=6, temperature=0.5))
    wanted = expected(decode.rows, 0.5 if processed else 1.0)
    sampled = decode.rows.sampled
    np.testing.assert_allclose(decode.logp[sampled], wanted[sampled], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_a_score_at_another_temperature_is_computed_from_whole_distributions(
    kind: str, temperature: float, connect: Connect, fakes: Any, sample: Any, expected: Any
) -> None:
    engine = connect(fakes.Settings(kind=kind))
    rows = sample(engine).rows
    found = engine.score(rows, request(rows, temperature=temperature), quiet)
    np.testing.assert_allclose(found.logp, expected(rows, temperature), atol=2e-6)


def test_what_twenty_log_probs_do_not_tell_is_left_out_and_said(
    connect: Connect, fakes: Any, sample: Any, expected: Any
) -> None:
    engine = connect(fakes.Settings(max_logprobs=20))
    rows = sample(engine).rows
    found = engine.score(rows, request(rows, temperature=0.3), quiet)
    known = np.isfinite(found.logp)
    assert 0 < known.sum() < rows.n_tokens - 4
    wanted = expected(rows, 0.3)
    np.testing.assert_allclose(found.logp[known], wanted[known], atol=6e-6)
    assert found.probe_logp is None
    assert "--max-logprobs -1" in found.not_recorded["distributions"]
    assert (
        f"of {rows.sampled.sum()} sampled tokens"
        in found.not_recorded["log-probs at the temperature"]
    )


def test_the_last_id_of_the_vocabulary_is_known_where_sglang_writes_0(
    connect: Connect, fakes: Any, expected: Any
) -> None:
    rows = Rows.build([[5, 575, 0, 575]], [1], [[False, True, True, True]])
    engine = connect(fakes.Settings(kind="sglang"))
    found = engine.score(rows, ScoreRequest(), quiet)
    np.testing.assert_allclose(found.logp, expected(rows), atol=1e-6)


@pytest.mark.parametrize(
    # 20 are returned and 640 would be all; all are returned, and they are 500 at most.
    ("limit", "vocabulary", "served"), [(20, 640, 640), (20, 500, 500), (500, 500, 500)],
)  # fmt: skip
def test_another_vocabulary_is_another_model(
    limit: int, vocabulary: int, served: int, connect: Connect, fakes: Any
) -> None:
    with pytest.raises(InputError, match=rf"a vocabulary of {served} tokens .mini., and MODEL has"):
        connect(fakes.Settings(max_logprobs=limit, vocabulary=vocabulary))


def test_a_limit_above_the_vocabulary_says_nothing_of_it(connect: Connect, fakes: Any) -> None:
    assert connect(fakes.Settings(max_logprobs=1000)).top_logprobs == 576


@pytest.mark.parametrize("kind", KINDS)
def test_choices_of_experts_are_taken_and_zeros_are_none(
    kind: str, connect: Connect, fakes: Any, sample: Any
) -> None:
    settings = fakes.Settings(kind=kind, routing="real")
    engine = connect(settings)
    rows = sample(engine).rows
    found = engine.score(rows, ScoreRequest(routing=True), quiet)
    assert found.router_topk.shape == (rows.n_tokens, 4, 2)
    assert found.router_topk[2].tolist() == [[2, 3], [4, 5], [6, 7], [0, 1]]  # 2 + 0 … 7, mod 8
    settings.routing = "zeros"
    found = engine.score(rows, ScoreRequest(routing=True), quiet)
    assert found.router_topk is None
    assert "no routing" in found.not_recorded["routing"]


def test_several_servers_share_the_work_and_a_stale_one_is_refused(
    connect: Connect, fakes: Any, sample: Any
) -> None:
    two = [fakes.Settings(), fakes.Settings()]
    engine = connect(*two, concurrency=1)
    rows = sample(engine).rows
    alone = sample(connect(fakes.Settings()))
    np.testing.assert_array_equal(rows.token_ids, alone.rows.token_ids)
    served = [sum(path == "/v1/completions" for _, path, _ in one.asked) for one in two]
    # Of each its limit, its vocabulary, the space of its log-probs (2) and a prompt to compare; of
    # one whether it samples by settings of its own (3 prompts, with all said and with nothing); and
    # 4 answers.
    assert sum(served) == 2 * (1 + 1 + 2 + 1) + 2 * 3 + 4
    assert set(engine.options["served_by"].split()) == {"0", "1"}

    def older(path: str, body: Any) -> Any:
        for choice in body.get("choices", ()) if isinstance(body, dict) else ():
            for step in choice["prompt_logprobs"] or ():
                for one in (step or {}).values():
                    one["logprob"] -= 0.2
        return body

    with pytest.raises(InputError, match=r"do not run the same weights: mean .delta. 0\.2 nats"):
        connect(fakes.Settings(), fakes.Settings(spoil=older))


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("vllm", {"started": 2000.0}, "another start"),
        ("vllm", {"version": "0.33.0"}, "another version"),
        ("sglang", {"started": 2000.0}, "another start"),
        ("sglang", {"weight_version": "7"}, "another version of its weights"),
    ],
)
def test_a_server_that_changes_in_mid_run_is_an_error(
    kind: str, change: dict[str, Any], words: str, connect: Connect, fakes: Any, sample: Any
) -> None:
    settings = fakes.Settings(kind=kind)
    engine = connect(settings)
    rows = sample(engine).rows
    for name, value in change.items():
        setattr(settings, name, value)
    with pytest.raises(EngineError, match=words):
        engine.score(rows, request(rows), quiet)


def test_weights_that_change_between_two_answers_are_an_error(
    connect: Connect, fakes: Any, sample: Any
) -> None:
    """The version stands in each answer; what is asked before and after sees nothing."""
    count = iter(range(1000))

    def updated(path: str, body: Any) -> Any:
        if path == "/generate":
            body["meta_info"]["weight_version"] = "1" if next(count) < 5 else "2"
        return body

    engine = connect(fakes.Settings(kind="sglang", spoil=updated))
    with pytest.raises(EngineError, match="another version of its weights"):  # at the fourth
        sample(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checksum_that_was_asked_for_sees_weights_that_changed_in_silence(
    kind: str, connect: Connect, fakes: Any, sample: Any
) -> None:
    settings = fakes.Settings(kind=kind, checksum="a")
    engine = connect(settings, checksum=True)
    sample(engine)
    settings.checksum = "b"
    with pytest.raises(EngineError, match="other weights"):
        sample(engine)
    with pytest.raises(InputError, match="computes no checksum"):
        connect(fakes.Settings(kind=kind), checksum=True)


@pytest.mark.parametrize("kind", KINDS)
def test_only_reads_and_completions_are_ever_asked(
    kind: str, connect: Connect, fakes: Any, sample: Any
) -> None:
    settings = fakes.Settings(kind=kind)
    engine = connect(settings)
    rows = sample(engine).rows
    engine.score(rows, request(rows, temperature=0.7), quiet)
    posted = {path for method, path, _ in settings.asked if method == "POST"}
    assert posted == {"/v1/completions" if kind == "vllm" else "/generate"}
    got = {path for method, path, _ in settings.asked if method == "GET"}
    assert got <= {
        "/version", "/v1/models", "/metrics", "/server_info", "/get_server_info", "/model_info",
        "/weight_info",
    }  # fmt: skip
    salts = {body["cache_salt"] for method, _, body in settings.asked if body and "seed" in body}
    assert all(len(salt) >= 32 for salt in salts)


def test_what_a_server_samples_with_by_itself_is_found_out(connect: Connect, fakes: Any) -> None:
    plain = connect(fakes.Settings(processed=False)).options
    assert not [name for name in plain if name.startswith("inherits")]
    own = connect(fakes.Settings(processed=False, top_k=4)).options
    found = {name: share for name, share in own.items() if name.startswith("inherits")}
    assert list(found) == ["inherits.top_k"]
    assert found["inherits.top_k"] > 0.2


def test_a_server_in_another_precision_is_refused(connect: Connect, fakes: Any) -> None:
    def half(path: str, body: Any) -> Any:
        return body | {"dtype": "bfloat16"} if path == "/server_info" else body

    with pytest.raises(InputError, match="runs in bfloat16, and the run is in float32") as caught:
        connect(fakes.Settings(kind="sglang", spoil=half))
    assert "--dtype bfloat16" in caught.value.hint


def test_sampling_and_scoring_share_no_prefix(connect: Connect, fakes: Any, sample: Any) -> None:
    settings = fakes.Settings()
    engine = connect(settings)
    settings.asked.clear()
    rows = sample(engine).rows
    drawn = {body["cache_salt"] for _, path, body in settings.asked if "completions" in path}
    settings.asked.clear()
    engine.score(rows, request(rows), quiet)
    scored = {body["cache_salt"] for _, path, body in settings.asked if "completions" in path}
    assert len(drawn) == len(scored) == 1
    assert drawn != scored


def test_an_engine_on_a_server_takes_nothing_that_would_change_it(
    connect: Connect, fakes: Any, sample: Any
) -> None:
    engine = connect(fakes.Settings())
    rows = sample(engine).rows
    for wrong in ({"train_mode": True}, {"replay": {}}):
        with pytest.raises(InputError, match="cannot replay"):
            engine.score(rows, request(rows, **wrong), quiet)
