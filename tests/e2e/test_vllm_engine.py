"""Real vLLM against what it does itself: where it stops, rows that fill its context, temperatures.

One worker process runs them all: vLLM in float32 on a copy of the embedded model with a context of
96 tokens and a second end token, vLLM in bfloat16, and transformers on the same rows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.settings import PLAIN_VLLM
from mismatch_lab.executors.local import run_task
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import CapturePlan, Prompt, Sampling, SideSpec

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CONTEXT = 96
END, SECOND_END = 1, 270
"""`<|end|>`, the tokenizer's, and ` =`, which stands in every worked solution."""
QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have now?"
PLAN = CapturePlan(probe_positions=32, tap_rows=1, tap_tokens=200)
WHOLE: dict[str, Any] = {"probes": True, "taps": True, "routing": True, "draws": True}


def spec(engine: str, model: Path, dtype: str = "float32", **args: Any) -> SideSpec:
    side = "infer" if engine == "vllm" else "ref"
    args = {**PLAIN_VLLM, **args} if engine == "vllm" else args
    return SideSpec.model_validate(
        {"side": side, "engine": engine, "model": str(model), "dtype": dtype, "args": args}
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "mini"
    shutil.copytree(checkpoint_dir(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    ends = {"eos_token_id": [END, SECOND_END], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


@pytest.fixture(scope="module")
def captures(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Capture]:
    long = [Prompt(id=f"l{i}", token_ids=[20 + i, *range(30, 121)]) for i in range(6)]
    asked = [Prompt(id=f"q{i}", messages=[{"role": "user", "content": QUESTION}]) for i in range(6)]

    def score(name: str, source: str = "full", **more: Any) -> Job:
        return ScoreJob.model_validate({"id": name, "source": source, "plan": PLAN, **more})

    def sample(name: str, prompts: list[Prompt], tokens: int, temperature: float = 1.0) -> Job:
        sampling = Sampling(max_tokens=tokens, temperature=temperature, seed=3)
        return GenerateJob(id=name, prompts=prompts, sampling=sampling)

    fp32, bf16, hf = spec("vllm", model), spec("vllm", model, "bfloat16"), spec("hf", model)
    stages = [
        Stage(
            spec=fp32,
            jobs=[
                sample("full", long, CONTEXT - 92),  # prompt and answer fill the context
                score("prefill", **WHOLE),
                score("bare"),
                sample("ends", asked, 40),
            ],
        ),
        Stage(spec=hf, jobs=[score("ref", **WHOLE), sample("hf-ends", asked, 40)]),
        Stage(
            spec=bf16,
            jobs=[
                sample("cool", asked, 40, 0.7),
                score("cool-prefill", "cool", temperature=0.7),
                score("cool-draws", "cool", temperature=0.7, draws=True),
            ],
        ),
    ]
    folder = tmp_path_factory.mktemp("captures")
    made: dict[str, Capture] = {}
    for stage in stages:  # vLLM starts once in a process
        task = WorkerTask(captures_dir=str(folder), stages=[stage])
        run_task(task, stage.spec.engine, folder / "logs", lambda _: None)
        made |= {job.id: load_capture(folder / job.id)[0] for job in stage.jobs}
    return made


def lengths(capture: Capture) -> list[int]:
    return [int(n) for n in np.diff(capture.rows.row_offsets)]


def test_rows_that_fill_the_context_are_scored_as_any_other(captures: dict[str, Capture]) -> None:
    decode, prefill, ref = captures["full"], captures["prefill"], captures["ref"]
    assert lengths(decode).count(CONTEXT) >= 3, "some answers go on to the last position"
    sampled = decode.rows.sampled
    assert np.abs(decode.logp - prefill.logp)[sampled].max() < 5e-5
    np.testing.assert_array_equal(np.isnan(prefill.logp), np.isnan(ref.logp))
    assert np.nanmax(np.abs(prefill.logp - ref.logp)) < 1e-3
    assert prefill.probe_logp is not None
    assert ref.probe_logp is not None
    np.testing.assert_allclose(prefill.probe_logp, ref.probe_logp, atol=1e-3)
    for name in ("model.norm", "model.layers.1.self_attn"):
        np.testing.assert_allclose(prefill.hidden[name], ref.hidden[name], rtol=0.01, atol=0.01)


def test_they_are_scored_together_with_shorter_ones_too(captures: dict[str, Capture]) -> None:
    np.testing.assert_allclose(captures["bare"].logp, captures["prefill"].logp, atol=2e-5)


def test_their_last_tokens_choose_no_experts(captures: dict[str, Capture]) -> None:
    prefill, ref = captures["prefill"], captures["ref"]
    assert prefill.router_topk is not None
    assert ref.router_topk is not None
    full = np.flatnonzero(np.array(lengths(prefill)) == CONTEXT)
    lasts = prefill.rows.row_offsets[1:][full] - 1
    assert (prefill.router_topk[lasts] == -1).all()
    rest = np.setdiff1d(np.arange(prefill.rows.n_tokens), lasts)
    assert (prefill.router_topk[rest] == ref.router_topk[rest]).mean() > 0.999


def test_draws_of_both_engines_say_the_same(captures: dict[str, Capture]) -> None:
    vllm, hf = captures["prefill"].draws, captures["ref"].draws
    assert vllm is not None
    assert hf is not None
    np.testing.assert_array_equal(np.isnan(vllm.entropy), ~captures["full"].rows.sampled)
    np.testing.assert_allclose(vllm.entropy, hf.entropy, atol=1e-3)
    for name in ("temperature", "top_k", "presence_penalty", "repetition_penalty"):
        np.testing.assert_allclose(vllm.gains[name], hf.gains[name], atol=2e-2)


@pytest.mark.parametrize("name", ["ends", "hf-ends"])
def test_answers_end_at_every_end_of_the_generation_config(
    captures: dict[str, Capture], name: str
) -> None:
    rows = captures[name].rows
    lasts = rows.row_offsets[1:] - 1
    ends = np.isin(rows.token_ids, [END, SECOND_END]) & rows.sampled
    assert set(rows.token_ids[lasts]) <= {END, SECOND_END}
    assert SECOND_END in rows.token_ids[lasts]
    np.testing.assert_array_equal(np.flatnonzero(ends), lasts)


def test_bfloat16_logits_are_divided_in_float32_as_the_sampler_does(
    captures: dict[str, Capture],
) -> None:
    decode = captures["cool"]
    sampled = decode.rows.sampled
    assert sampled.sum() > 40
    for name in ("cool-prefill", "cool-draws"):
        assert np.abs(decode.logp - captures[name].logp)[sampled].max() == 0.0
