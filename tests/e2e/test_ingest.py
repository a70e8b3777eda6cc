"""Real log-probs in other frameworks' dumps: they come back to the bit, and get the verdict of what
was planted. transformers on both sides, the fault in the trainer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.faults.attention import drop_sinks, ignore_windows
from mismatch_lab.ingest.run import IngestRequest, ingest
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.probes.suites import load_probe
from mismatch_lab.probes.thresholds import prompts_of
from mismatch_lab.schema import Sampling, SideSpec

sys.path.insert(0, str(Path(__file__).parents[1]))

import dump_writers as w

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPTS = 24
Record = list[w.Written]


@dataclass(frozen=True)
class Case:
    """A trainer, and what is to be said of it."""

    status: str
    cause: str | None
    plant: Callable[[Any], None] = lambda _model: None
    """What is done to its model."""
    temperature: float = 1.0
    """That it divides logits by."""
    sampled_at: float = 1.0
    """Temperature of the engine."""
    moved: int = 0
    """Places that its log-probs lie too late."""
    logits: torch.dtype = torch.float32
    """In which it normalises."""
    always: bool = True
    """Diagnosed in every run of the tests, and not in the long ones alone."""


CASES = {
    "healthy": Case("healthy", None),
    "sinks": Case("mismatch", "attention-sinks-dropped", lambda model: drop_sinks(model, 1.0)),
    "shift": Case("mismatch", "shift-by-one", moved=1, always=False),
    "windows": Case(
        "mismatch", "sliding-window", lambda model: ignore_windows(model, 1.0), always=False
    ),
    "temperature": Case("mismatch", "raw-logprobs-temperature", sampled_at=0.7, always=False),
    "precision": Case("mismatch", "logprob-precision", logits=torch.bfloat16, always=False),
}


def engine_of(dtype: str, side: str) -> HfEngine:
    return HfEngine(SideSpec(side=side, engine="hf", model=str(checkpoint_dir()), dtype=dtype))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rollouts() -> dict[float, Capture]:
    """What the engine sampled, by temperature."""
    engine = engine_of("bfloat16", "infer")
    probe = load_probe("quick")
    prompts = prompts_of(probe, engine.spec)[:PROMPTS]
    return {
        temperature: engine.generate(
            prompts, Sampling(temperature=temperature, max_tokens=48), lambda *_: None
        )
        for temperature in (1.0, 0.7)
    }


def trained(rollout: Capture, case: Case) -> Record:
    """The engine's rows with what a trainer's forward pass says of them."""
    model: Any = engine_of("bfloat16", "train").scorer.parts.model
    case.plant(model)
    rows = []
    for start, stop in rollout.rows.spans():
        ids = rollout.rows.token_ids[start:stop]
        sampled = rollout.rows.sampled[start:stop]
        with torch.no_grad():
            logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0].to(case.logits)
        logp = torch.log_softmax(logits / case.temperature, -1).float()
        own = logp[:-1].gather(1, torch.tensor(ids[1:, None].astype(np.int64)))[:, 0].numpy()
        train = np.concatenate([np.zeros(1 + case.moved, np.float32), own])[: len(ids)]
        infer = rollout.logp[start:stop]
        nan = np.float32(np.nan)
        rows.append(
            w.Written(
                ids.tolist(),
                sampled.tolist(),
                np.where(sampled, infer, nan),
                np.where(sampled, train, nan),
            )
        )
    return rows


def dumped(name: str, record: Record, case: Case, folder: Path) -> Path:
    """The record in a format's dump, ingested."""
    dump = w.WRITERS[name](folder / f"{name}-dump", record)
    flags = {"temperature": case.sampled_at, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    request = IngestRequest(name, dump, folder / name, {**flags, "logprobs": "processed"})
    ingest(request, lambda _event: None)
    return folder / name


def diagnosed(captures: Path, out: Path) -> dict[str, Any]:
    words = ["diagnose", "mini-gpt-oss", "--captures", str(captures), "--dtype", "bfloat16"]
    done = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", *words, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_format_holds_the_same_record(
    name: str, rollouts: dict[float, Capture], tmp_path: Path
) -> None:
    case = CASES[name]
    record = trained(rollouts[case.sampled_at], case)
    for fmt in w.WRITERS:
        folder = dumped(fmt, record, case, tmp_path)
        for side, attribute in (("decode", "infer"), ("train", "train")):
            capture, _ = load_capture(folder / side)
            assert capture.rows.token_ids.tolist() == [t for row in record for t in row.ids]
            assert capture.rows.sampled.tolist() == [m for row in record for m in row.sampled]
            whole = np.concatenate([getattr(row, attribute) for row in record])
            assert capture.logp.tobytes() == whole.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    "name",
    [n if case.always else pytest.param(n, marks=pytest.mark.long) for n, case in CASES.items()],
)
def test_a_dump_gets_the_verdict_of_what_was_planted(
    name: str, rollouts: dict[float, Capture], tmp_path: Path
) -> None:
    case = CASES[name]
    record = trained(rollouts[case.sampled_at], case)
    folder = dumped("nemo-rl", record, case, tmp_path)  # the arrays of the others are the same
    verdict = diagnosed(folder, tmp_path / "run")["verdict"]
    print([(c["id"], c["side"], c["confidence"]) for c in verdict["causes"]])
    # Two passes of one program round alike, or not, by the processor's kernels.
    accepted = ("match", "numerics") if case.status == "healthy" else (case.status,)
    assert verdict["status"] in accepted
    causes = [(cause["id"], cause["side"]) for cause in verdict["causes"]]
    named = [cause for cause in causes if cause != ("numerics-floor", "neither")]
    assert named[:1] == ([] if case.cause is None else [(case.cause, "train")])
