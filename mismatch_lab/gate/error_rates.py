"""How often the gate errs, by simulation over recorded runs.

    python -m mismatch_lab.gate.error_rates RUN... --out DIR

writes `gate-power.json`, `gate-power.md` and `gate-power.svg`. Whole sequences of healthy runs are
drawn with replacement, as they are and made harder; of runs of one subject (other seeds) also pairs
of answers to the same prompts. Every error is multiplied by graded factors, so that its true size
is known in limits: an interval that ends below `1 / size` passes, one that begins above it fails.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.gate.record import Record, delta_of, read_record
from mismatch_lab.gate.rules import default_rules
from mismatch_lab.measures.against_baseline import PositionSums, baseline_ratio, sum_by_position
from mismatch_lab.measures.stats import mean_estimate

NAME = "gate-power"
EDGE = "decode_train"
ROWS = (4, 8, 16, 32, 64, 128)
TRIALS, SEED = 2000, 0
SIZES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
"""True error in limits: healthy is at most half, and twice is what may not pass."""
HEALTHY, TWICE, MOST_ERRORS = 0.5, 2.0, 0.01
CURVE = tuple(float(size) for size in np.geomspace(0.2, 5, 61))
LIMIT, BASELINE = "limit", "baseline"
COMPARISONS = len(default_rules().baseline)
"""As many as the default rules correct for."""

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Of one run: |delta| in nats, the row and the position of each sampled token."""

    label: str
    values: Float64
    row_ids: Int64
    positions: Int64
    n_rows: int

    def drawn(self, rows: Int64) -> Sequences:
        """Some rows, in this order, each a row of its own."""
        parts = [np.flatnonzero(self.row_ids == row) for row in rows]
        flat = np.concatenate(parts)
        ids = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
        return Sequences(self.label, self.values[flat], ids, self.positions[flat], len(rows))


@dataclass(frozen=True)
class Trial:
    """One interval, in units of the truth: it should hold 1."""

    kind: str
    scenario: str
    runs: str
    n_rows: int
    n_tokens: int
    low: float
    high: float

    def passes(self, size: float) -> bool:
        """Where the true error is this many limits."""
        return bool(self.high * size < 1)

    def fails(self, size: float) -> bool:
        """Likewise."""
        return bool(self.low * size > 1)


def _as_recorded(drawn: Sequences, _rng: np.random.Generator) -> Float64:
    return drawn.values


def _heavy_tails(drawn: Sequences, rng: np.random.Generator) -> Float64:
    """Each token's error times a log-normal of mean 1 whose log deviates by 1."""
    return drawn.values * rng.lognormal(-0.5, 1.0, len(drawn.values))


def _correlated(drawn: Sequences, rng: np.random.Generator) -> Float64:
    """Each sequence's error times one log-normal of mean 1 whose log deviates by 0.7."""
    return drawn.values * rng.lognormal(-0.245, 0.7, drawn.n_rows)[drawn.row_ids]


SCENARIOS: dict[str, Callable[[Sequences, np.random.Generator], Float64]] = {
    "as recorded": _as_recorded,
    "heavy tails": _heavy_tails,
    "correlated tokens": _correlated,
}


def sequences_of(record: Record) -> Sequences:
    """A run's sampled tokens."""
    pairs = record.pair(EDGE)
    assert pairs is not None  # every run has this edge
    values = np.abs(delta_of(pairs))
    label = f"{record.model} {record.subject.infer} {record.subject.dtype.split(',')[0]}"
    return Sequences(label, values, pairs.row_ids, pairs.positions, record.n_rows)


def limit_trials(run: Sequences, rng: np.random.Generator) -> Iterator[Trial]:
    """Against a limit: rows drawn of one run."""
    truth = float(run.values.mean())
    for scenario, made in SCENARIOS.items():
        for n_rows in ROWS:
            for _ in range(TRIALS):
                drawn = run.drawn(rng.integers(0, run.n_rows, n_rows))
                found = mean_estimate(made(drawn, rng), drawn.row_ids)
                yield Trial(
                    LIMIT, scenario, run.label, n_rows, len(drawn.values),
                    found.ci95_low / truth, found.ci95_high / truth,
                )  # fmt: skip


def baseline_trials(run: Sequences, other: Sequences, rng: np.random.Generator) -> Iterator[Trial]:
    """Against a baseline: answers to the same prompts, drawn of two runs."""
    tail = default_rules().false_alarm_rate / COMPARISONS
    truth = _baseline_truth(run, other)
    for scenario, made in SCENARIOS.items():
        for n_rows in ROWS:
            for _ in range(TRIALS):
                rows = rng.integers(0, run.n_rows, n_rows)
                now, then = run.drawn(rows), other.drawn(rows)
                found = baseline_ratio(
                    _sums(now, made(now, rng)), _sums(then, made(then, rng)), tail
                )
                yield Trial(
                    BASELINE, scenario, run.label, n_rows, len(now.values),
                    found.low / truth, found.high / truth,
                )  # fmt: skip


def _baseline_truth(run: Sequences, other: Sequences) -> float:
    """What two whole runs of one model differ by: rows are drawn of these, not of all answers."""
    return baseline_ratio(_sums(run, run.values), _sums(other, other.values), 0.025).ratio


def _sums(run: Sequences, values: Float64) -> PositionSums:
    return sum_by_position(values, run.row_ids, run.positions, run.n_rows)


def trials_of(runs: Sequence[Path]) -> list[Trial]:
    """Every trial of these runs."""
    rng = np.random.default_rng(SEED)
    by_subject: dict[str, list[Sequences]] = {}
    for path in runs:
        record = read_record(path)
        by_subject.setdefault(record.subject.model_dump_json(), []).append(sequences_of(record))
    found: list[Trial] = []
    for group in by_subject.values():
        found += limit_trials(group[0], rng)
        if len(group) > 1:
            found += baseline_trials(group[0], group[1], rng)
    return found


def rate(trials: Sequence[Trial], size: float, what: Callable[[Trial, float], bool]) -> float:
    """Share of trials; NaN of none."""
    return float(np.mean([what(one, size) for one in trials])) if trials else float("nan")


COLUMNS = (
    "sequences", "tokens", "made harder", "false fail", "false pass", "fails at the limit",
    "passes at the limit", "decides healthy", "decides twice", "decides 4 times",
)  # fmt: skip


def markdown(trials: Sequence[Trial], command: str) -> str:
    """The tables."""
    lines = [
        "# How often the gate errs", "",
        f"`{command}`: {TRIALS} trials a row and model of {', '.join(_labels(trials))}. "
        "Sizes are the true error in limits.", "",
        f"False fail: healthy (at {HEALTHY:g} limits) fails. False pass: {TWICE:g} limits pass. "
        f"Both are to be at most {MOST_ERRORS:.0%}, where the gate decides at all.", "",
    ]  # fmt: skip
    for kind in (LIMIT, BASELINE):
        lines += [f"## Against a {kind}", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        for scenario in SCENARIOS:
            for n_rows in ROWS:
                lines += _line(trials, kind, scenario, n_rows)
        lines.append("")
    return "\n".join(lines)


def _part(trials: Sequence[Trial], kind: str, scenario: str, n_rows: int) -> list[Trial]:
    return [t for t in trials if (t.kind, t.scenario, t.n_rows) == (kind, scenario, n_rows)]


def _line(trials: Sequence[Trial], kind: str, scenario: str, n_rows: int) -> list[str]:
    part = _part(trials, kind, scenario, n_rows)
    if not part:
        return []
    tokens = int(np.median([t.n_tokens for t in part]))
    shares = [
        rate(part, HEALTHY, Trial.fails), rate(part, TWICE, Trial.passes),
        rate(part, 1.0, Trial.fails), rate(part, 1.0, Trial.passes),
        rate(part, HEALTHY, Trial.passes), rate(part, TWICE, Trial.fails),
        rate(part, 4.0, Trial.fails),
    ]  # fmt: skip
    cells = [f"{n_rows}", f"{tokens}", scenario, *(f"{share:.2%}" for share in shares)]
    return ["| " + " | ".join(cells) + " |"]


def _labels(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.runs for trial in trials))


def figure(trials: Sequence[Trial], path: Path) -> None:
    """Power: how often a run of a true size passes and fails, by the number of sequences."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for panel, kind in zip(panels, (LIMIT, BASELINE), strict=True):
        for at, n_rows in enumerate((8, 32, 128)):
            part = _part(trials, kind, "as recorded", n_rows)
            fails = [rate(part, size, Trial.fails) for size in CURVE]
            passes = [rate(part, size, Trial.passes) for size in CURVE]
            panel.plot(CURVE, fails, f"C{at}-", label=f"fails, {n_rows} sequences")
            panel.plot(CURVE, passes, f"C{at}--", label=f"passes, {n_rows} sequences")
        panel.axvline(1, color="0.6", linewidth=1)
        panel.set(title=f"against a {kind}", xscale="log", xlabel="true error, in limits")
    panels[0].set_ylabel("share of runs")
    panels[1].legend(fontsize="small")
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the study."""
    parser = argparse.ArgumentParser(
        prog="python -m mismatch_lab.gate.error_rates", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    trials = trials_of(args.runs)
    args.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m mismatch_lab.gate.error_rates {' '.join(p.name for p in args.runs)}"
    (args.out / f"{NAME}.md").write_text(markdown(trials, command), encoding="utf-8")
    curves = [
        {"kind": kind, "scenario": scenario, "n_rows": n_rows, "size": size,
         "fails": rate(part, size, Trial.fails), "passes": rate(part, size, Trial.passes)}
        for kind in (LIMIT, BASELINE)
        for scenario in SCENARIOS
        for n_rows in ROWS
        if (part := _part(trials, kind, scenario, n_rows))
        for size in SIZES
    ]  # fmt: skip
    (args.out / f"{NAME}.json").write_text(json.dumps(curves, indent=0) + "\n", encoding="utf-8")
    figure(trials, args.out / f"{NAME}.svg")


if __name__ == "__main__":
    main()
