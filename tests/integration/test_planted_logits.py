"""What is wrong with the normaliser of the embedded model is found by simulation, in one process.

Faults are planted in other shards and other entries than the scorecard's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.attribution.explain import Simulated, explain
from mismatch_lab.attribution.hypotheses import Features
from mismatch_lab.attribution.naming import named_causes
from mismatch_lab.attribution.odd_causes import masked_ids
from mismatch_lab.attribution.simulate import Predictor, Simulator
from mismatch_lab.attribution.suspects import Suspect, raises_only
from mismatch_lab.captures.capture import Capture
from mismatch_lab.checkpoints.config import EMBEDDED, read_config, resolve_model_path
from mismatch_lab.engines.base import Engine
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.engines.plan import REF_ARGS
from mismatch_lab.engines.recording import score_job
from mismatch_lab.faults import load_fault
from mismatch_lab.findings.odd_tokens import only_finite
from mismatch_lab.probes.suites import load_probe, probe_prompts
from mismatch_lab.schema import CapturePlan, Manifest, Sampling, SideSpec

NOISE_NATS = 3e-6
Plant = Callable[[Any], None]


class Scorer:
    """The embedded model, and rows that it sampled."""

    def __init__(self, folder: Path) -> None:
        from mismatch_lab.captures.store import save_capture
        from mismatch_lab.engines.hf import HfEngine

        spec = SideSpec(
            side="ref",
            engine="hf",
            model=resolve_model_path(EMBEDDED),
            dtype="float32",
            args=dict(REF_ARGS),
        )
        self.engine: Engine = HfEngine(spec)
        self.folder = folder
        prompts = probe_prompts(load_probe("quick"))[:12]
        sampling = Sampling(max_tokens=24)
        decode = self.engine.generate(prompts, sampling, lambda done, total: None)
        manifest = Manifest.model_validate(
            {
                "id": "decode", "side": "infer", "engine": "hf", "engine_version": "", "model": "",
                "dtype": "float32", "sampling": sampling, "logprob_space": "raw", "patched": [],
                "host": "", "packages": {}, "rows": 12, "tokens": 1, "wall_s": 0,
                "arrays_sha256": "",
            }
        )  # fmt: skip
        save_capture(folder / "decode", decode, manifest)

    def score(self, job: ScoreJob) -> Capture:
        """As the lab asks for it."""
        return score_job(self.engine, job, self.folder, lambda done, total: None)

    def suspect(self, plant: Plant | None) -> Capture:
        """The trainer's capture, with something planted in its model."""
        model: Any = self.engine.scorer.parts.model  # type: ignore[attr-defined]
        hooks = dict(model._forward_hooks)
        job = ScoreJob(
            id="train", source="decode", temperature=1.0, plan=CapturePlan(), probes=True
        )
        try:
            if plant is not None:
                plant(model)
            return self.score(job)
        finally:
            model._forward_hooks.clear()
            model._forward_hooks.update(hooks)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    made = Scorer(tmp_path_factory.mktemp("captures"))
    yield made
    made.engine.close()


def named(scorer: Scorer, plant: Plant | None) -> tuple[Simulated, Capture]:
    train, expected = scorer.suspect(plant), scorer.suspect(None)
    finite = only_finite({"train": train})["train"].logp.astype(np.float64)
    rows, true = train.rows, expected.logp.astype(np.float64)
    error = float(np.nanmean(np.abs(finite - true)[rows.sampled]))
    suspect = Suspect("train", finite, true, error, NOISE_NATS)
    config = read_config(EMBEDDED)
    features = Features(
        "train", config, Sampling(), dtype="float32", raises_only=raises_only(suspect),
        impossible=bool(np.isneginf(train.logp).any()), masked=masked_ids(train),
    )  # fmt: skip
    simulator = Simulator(scorer, 1.0, int(config["vocab_size"]))
    return explain(suspect, features, rows, Predictor(simulator, None, 1.0), ()), train


def of_fault(name: str, strength: float) -> Plant:
    fault = load_fault(name)
    return lambda model: fault.plant(model, strength) if fault.plant else None


def masking(chosen: Callable[[Any], Any]) -> Plant:
    """Put -inf on what `chosen` says of [n, V] logits."""

    def plant(model: Any) -> None:
        def mask(_module: Any, _args: Any, output: Any) -> Any:
            output["logits"] = output.logits.masked_fill(chosen(output.logits), -np.inf)
            return output

        model.register_forward_hook(mask)

    return plant


def the_rest(logits: Any, k: int) -> Any:
    return logits < logits.topk(k, -1).values[..., -1:]


def last_quarter_lost(model: Any) -> None:
    """Another shard than the scorecard's."""
    import torch

    from mismatch_lab.faults.logits import counted_only

    def lose(_module: Any, _args: Any, output: Any) -> Any:
        size = output.logits.shape[-1]
        output["logits"] = counted_only(output.logits, torch.arange(size) < 3 * -(-size // 4))
        return output

    model.register_forward_hook(lose)


@pytest.mark.parametrize(
    "plant",
    [
        of_fault("lost-shard", 2), of_fault("lost-shard", 4), of_fault("lost-shard", 8),
        of_fault("engine-lost-shard", 4), last_quarter_lost,
    ],
    ids=["half", "quarter", "eighth", "all-but-one", "last"],
)  # fmt: skip
def test_a_shard_that_is_not_counted(scorer: Scorer, plant: Plant) -> None:
    simulated, _ = named(scorer, plant)
    causes = named_causes(simulated, None)
    assert [cause.id for cause in causes] == ["partial-normaliser"]
    assert simulated.left_nats <= NOISE_NATS
    assert causes[0].confirmed_by[0].by == "unseen rows"
    assert causes[0].confirmed_by[0].after <= NOISE_NATS


@pytest.mark.parametrize(
    "plant",
    [
        of_fault("masked-vocabulary", 7), of_fault("masked-vocabulary", 29),
        masking(lambda logits: the_rest(logits, 3)),
    ],
    ids=["seventh", "29th", "top-3"],
)  # fmt: skip
def test_a_mask_in_scoring(scorer: Scorer, plant: Plant) -> None:
    simulated, train = named(scorer, plant)
    assert np.isneginf(train.logp).any()
    if simulated.suspect.error_nats > NOISE_NATS:
        assert {c.id for c in named_causes(simulated, None)} == {"impossible-token"}
    assert simulated.left_nats <= NOISE_NATS
