"""How often healthy models leave the noise floor, and planted errors do, by the limit's factor.

    python -m mismatch_lab.scorecard.floor_power --recordings DIR --out DIR [--engine hf|vllm]
        [--dtype D]... [MODEL...]

records what is missing, on every healthy model of the card if none is named, then writes
`floor-power.json`, `floor-power.md` and `floor-power.svg`. Nothing healthy or planted is run twice:
scaled logits and noise are planted on the recorded log-probs of the trainer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import MismatchLabError
from mismatch_lab.executors.forked import forked_workers
from mismatch_lab.findings.noise_floor import RESOLUTION_NATS, SMALLEST
from mismatch_lab.measures.paired import typical_ratio
from mismatch_lab.measures.stats import mean_estimate, ratio_of_means
from mismatch_lab.schema import Limits
from mismatch_lab.scorecard.floor_page import Trial, write_page
from mismatch_lab.scorecard.floor_recordings import (
    SCALES,
    Float64,
    Recording,
    load,
    path_of,
    record,
)
from mismatch_lab.scorecard.models import EVERY_ARCHITECTURE, RANDOM_MODELS

NOISE_NATS = (2e-4, 2e-3, 2e-2)
"""Standard deviations of an error on every token."""
DRAWS, SEED = 25, 0
"""Sets of rows that are drawn of a recording for each number of rows, without replacement."""
ROWS = (4, 8, 16)
HEALTHY_ENGINE, HEALTHY_SAMPLING, HEALTHY_TRAINER = "engine", "engine, sampling", "trainer"
HEALTHY = (HEALTHY_ENGINE, HEALTHY_SAMPLING, HEALTHY_TRAINER)


def trials(recording: Recording) -> Iterator[Trial]:
    """Healthy and planted errors, on all rows and on few."""
    rng = np.random.default_rng(SEED)
    logp = recording.logp
    said = dict(zip(HEALTHY, (logp["prefill"], logp["decode"], logp["train"]), strict=True))
    for scale, altered in zip(SCALES, recording.scaled["train"], strict=True):
        said[f"logits x {scale:g}"] = altered
    for noise_nats in NOISE_NATS:
        noise = rng.normal(0, noise_nats, len(logp["train"]))
        said[f"noise {noise_nats:g} nats"] = logp["train"] + noise
    every = np.unique(recording.row_ids)
    for chosen in _row_sets(every, rng):
        tokens = np.isin(recording.row_ids, chosen)
        for planted, one in said.items():
            yield _trial(recording, planted, one, tokens, len(chosen))


def _row_sets(every: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    yield every
    for n_rows in ROWS:
        if n_rows < len(every):
            for _ in range(DRAWS):
                yield rng.choice(every, n_rows, replace=False)


def _trial(
    recording: Recording, planted: str, said: Float64, tokens: NDArray[np.bool_], n_rows: int
) -> Trial:
    logp, rows = recording.logp, recording.row_ids[tokens]
    floor = np.abs(logp["floor"] - logp["ref"])[tokens]
    error = np.abs(said - logp["ref"])[tokens]
    trainer = logp["train"] if planted in HEALTHY else said
    edge = mean_estimate(np.abs(logp["decode"] - trainer)[tokens], rows)
    mean = ratio_of_means(error, np.maximum(floor, SMALLEST), rows)
    typical = typical_ratio(error, floor, rows, RESOLUTION_NATS)
    return Trial(
        recording.engine,
        recording.model,
        recording.dtype,
        planted,
        n_rows,
        mean.value,
        mean.ci95_low,
        typical.value,
        typical.ci95_low,
        edge.ci95_high >= Limits().match_abs_delta_nats,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the study."""
    parser = argparse.ArgumentParser(
        prog="python -m mismatch_lab.scorecard.floor_power", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, help="trained and random models")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--dtype", action="append", choices=("bfloat16", "float32", "float16"))
    parser.add_argument("--render-only", action="store_true", help="record nothing")
    parser.add_argument("models", nargs="*")
    args = parser.parse_args(argv)
    if not args.render_only:
        models = args.models or ["mini-gpt-oss", *EVERY_ARCHITECTURE, *RANDOM_MODELS]
        checkpoints = args.checkpoints or args.recordings / "models"
        checkpoints.mkdir(parents=True, exist_ok=True)
        _record(args.recordings, args.engine, models, args.dtype or ["bfloat16"], checkpoints)
    paths = sorted(args.recordings.glob("*.npz"))
    write_page([trial for path in paths for trial in trials(load(path))], args.out)


def _record(
    folder: Path, engine: str, models: list[str], dtypes: list[str], checkpoints: Path
) -> None:
    with forked_workers(at_once=True):
        for model in models:
            for dtype in dtypes:
                if path_of(folder, engine, model, dtype).exists():
                    continue
                try:
                    print(record(folder, engine, model, dtype, checkpoints), flush=True)
                except MismatchLabError as error:  # one model costs one recording
                    print(f"{model} {dtype}: {error}", flush=True)


if __name__ == "__main__":
    main()
