"""`python -m mismatch_lab.remedies.attention_sinks.bench FOLDER [--dry-run]`."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch

from mismatch_lab.remedies.attention_sinks.bench.accuracy import Accuracy, measure_accuracy
from mismatch_lab.remedies.attention_sinks.bench.page import page
from mismatch_lab.remedies.attention_sinks.bench.problem import DRY_RUN, GPT_OSS
from mismatch_lab.remedies.attention_sinks.bench.speed import Speed, measure_speed

SCHEMA_VERSION = 1
SECONDS_FOR_COMPILING = 200
"""After so long, flex attention is not compiled for further lengths."""


def main() -> None:
    """Measure, writing what there is after every group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where sinks.json and sinks.md are written")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    given = parser.parse_args()
    measure(given.folder, given.dry_run)


def measure(folder: Path, dry_run: bool) -> tuple[list[Accuracy], list[Speed]]:
    """Errors at 512 tokens; times at 4k, 16k and 64k, each with all keys and a window of 128."""
    shape = DRY_RUN if dry_run else GPT_OSS
    lengths, checked, window = ((64, 160), 48, 16) if dry_run else ((4096, 16384, 65536), 512, 128)
    deadline = perf_counter() + SECONDS_FOR_COMPILING
    folder.mkdir(parents=True, exist_ok=True)
    accuracy: list[Accuracy] = []
    speed: list[Speed] = []
    try:
        for row in measure_accuracy(shape, checked, window):
            accuracy.append(row)
            _write(folder, shape.device, accuracy, speed)
    except Exception as error:  # the times are worth having all the same
        accuracy.append(Accuracy("all", True, [checked], None, note=_said(error)))
    for tokens in lengths:
        for seen in (None, window):
            try:
                speed += measure_speed(shape, tokens, seen, deadline)
            except Exception as error:  # what was measured before is worth keeping
                speed.append(Speed("all", tokens, seen, note=_said(error)))
            _write(folder, shape.device, accuracy, speed)
    print((folder / "sinks.md").read_text(encoding="utf-8"))
    return accuracy, speed


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _write(folder: Path, device: str, accuracy: list[Accuracy], speed: list[Speed]) -> None:
    machine = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "torch": torch.__version__,
    }
    found = {
        "schema_version": SCHEMA_VERSION,
        "machine": machine,
        "accuracy": [asdict(row) | {"right": row.right} for row in accuracy],
        "speed": [asdict(row) for row in speed],
    }
    (folder / "sinks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (folder / "sinks.md").write_text(page(machine, accuracy, speed), encoding="utf-8")


if __name__ == "__main__":
    main()
