"""`python -m mismatch_lab.remedies.grouped_experts.bench FOLDER [--dry-run]`."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
import transformers

from mismatch_lab.remedies.grouped_experts.bench.accuracy import Accuracy, measure_accuracy
from mismatch_lab.remedies.grouped_experts.bench.layer import DRY_RUN, REAL
from mismatch_lab.remedies.grouped_experts.bench.measure import Bench, Row, measure
from mismatch_lab.remedies.grouped_experts.bench.page import page
from mismatch_lab.remedies.grouped_experts.bench.ways import register_ways

SCHEMA_VERSION = 1
SECONDS = 65.0
"""After so long, no further row is begun."""


def main() -> None:
    """Measure, writing what there is after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where experts.json and experts.md are written")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    given = parser.parse_args()
    measure_all(given.folder, given.dry_run)


def measure_all(folder: Path, dry_run: bool) -> tuple[list[Accuracy], list[Row]]:
    """Errors at few tokens; times and memory at 4k, 8k and 24k, and at 128 where all ways fit."""
    setting = DRY_RUN if dry_run else REAL
    lengths, checked = ((8, 64), 16) if dry_run else ((4096, 24576, 8192, 128), 128)
    deadline = perf_counter() + SECONDS
    folder.mkdir(parents=True, exist_ok=True)
    register_ways()
    accuracy: list[Accuracy] = []
    rows: list[Row] = []
    bench = Bench(setting)
    bench.start()
    try:
        for found in measure_accuracy(setting, checked):
            accuracy.append(found)
            _write(folder, bench, accuracy, rows)
    except Exception as error:  # the times are worth having all the same
        accuracy.append(Accuracy("all", checked, None, f"{type(error).__name__}: {error}"[:300]))
    bench.drop()
    for tokens in lengths:
        for row in measure(bench, tokens, deadline):
            rows.append(row)
            _write(folder, bench, accuracy, rows)
    print((folder / "experts.md").read_text(encoding="utf-8"))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return accuracy, rows


def _write(folder: Path, bench: Bench, accuracy: list[Accuracy], rows: list[Row]) -> None:
    machine = {
        "device": torch.cuda.get_device_name()
        if bench.setting.device == "cuda"
        else platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sharding": bench.sharding,
    }
    found = {
        "schema_version": SCHEMA_VERSION,
        "machine": machine,
        "accuracy": [asdict(row) for row in accuracy],
        "rows": [asdict(row) for row in rows],
    }
    (folder / "experts.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (folder / "experts.md").write_text(page(machine, accuracy, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
