"""The study of the noise floor as files: numbers, a table and a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mismatch_lab.findings.noise_floor import RESOLUTION_NATS
from mismatch_lab.schema import Limits

NAME = "floor-power"
FACTORS = (1.2, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
CURVE = tuple(float(factor) for factor in np.geomspace(1, 5, 41))


@dataclass(frozen=True)
class Trial:
    """One error against one floor, on some rows."""

    engine: str
    model: str
    dtype: str
    planted: str
    """One of `floor_power.HEALTHY`, or what is wrong with the trainer."""
    n_rows: int
    mean: float
    mean_low: float
    """Lower end of the 95 % interval: what is held against the limit."""
    typical: float
    typical_low: float
    counts: bool
    """Whether the edge is large enough for ratios to count (the match limit)."""


Low = Callable[[Trial], float]
MEASURES: dict[str, Low] = {
    "mean over mean": lambda trial: trial.mean_low,
    "typical token": lambda trial: trial.typical_low,
}


def write_page(trials: Sequence[Trial], out: Path) -> None:
    """Everything, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    whole = whole_recordings(trials)
    stored = {
        "resolution_nats": RESOLUTION_NATS,
        "trials": [asdict(trial) for trial in whole],
        "few_rows": [
            {"n_rows": n, "healthy": healthy, "measure": name, "factor": factor,
             "rate": _rate(_part(trials, n, healthy), low, factor)}
            for n in sorted({trial.n_rows for trial in trials})
            for healthy in (True, False)
            for name, low in MEASURES.items()
            for factor in FACTORS
        ],
    }  # fmt: skip
    text = json.dumps(stored, indent=None, separators=(",", ":"), allow_nan=True)
    (out / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(_markdown(trials, whole), encoding="utf-8")
    _figure(whole, out / f"{NAME}.svg")


def whole_recordings(trials: Sequence[Trial]) -> list[Trial]:
    """Those on all rows of their recording."""
    rows: dict[tuple[str, str, str], int] = {}
    for t in trials:
        key = (t.engine, t.model, t.dtype)
        rows[key] = max(rows.get(key, 0), t.n_rows)
    return [t for t in trials if t.n_rows == rows[t.engine, t.model, t.dtype]]


def _is_healthy(trial: Trial) -> bool:
    return not trial.planted.startswith(("logits", "noise"))


def _part(trials: Sequence[Trial], n_rows: int, healthy: bool) -> list[Trial]:
    return [t for t in trials if t.n_rows == n_rows and _is_healthy(t) == healthy]


def _rate(trials: Sequence[Trial], low: Low, factor: float) -> float:
    """Share of trials that are called more than precision with this limit."""
    if not trials:
        return float("nan")
    return sum(trial.counts and low(trial) > factor for trial in trials) / len(trials)


def _markdown(trials: Sequence[Trial], whole: Sequence[Trial]) -> str:
    lines = ["# Leaving the noise floor: false alarms and detection by the limit's factor", ""]
    lines += ["Whole recordings; an alarm is a 95 % interval beyond the factor.", ""]
    for name, low in MEASURES.items():
        lines += [f"## {name.capitalize()}", ""]
        lines += ["| | trials | " + " | ".join(f"{f:g}" for f in FACTORS) + " |"]
        lines += ["|---|---|" + "---|" * len(FACTORS)]
        for dtype in sorted({t.dtype for t in whole}):
            for planted in dict.fromkeys(t.planted for t in whole):
                part = [t for t in whole if (t.dtype, t.planted) == (dtype, planted)]
                rates = " | ".join(f"{_rate(part, low, f):.0%}" for f in FACTORS)
                lines.append(f"| {dtype}, {planted} | {len(part)} | {rates} |")
        for n_rows in sorted({t.n_rows for t in trials}):
            part = _part(trials, n_rows, healthy=True)
            rates = " | ".join(f"{_rate(part, low, f):.2%}" for f in FACTORS)
            lines.append(f"| healthy, {n_rows} rows drawn | {len(part)} | {rates} |")
        lines.append("")
    return "\n".join([*lines, *_healthy_table(whole), ""])


def _healthy_table(whole: Sequence[Trial]) -> list[str]:
    lines = ["## Healthy models", "", "| engine | model | dtype | side | mean | typical |"]
    lines += ["|---|---|---|---|---|---|"]
    for t in sorted(filter(_is_healthy, whole), key=lambda t: -t.typical):
        lines.append(
            f"| {t.engine} | {t.model} | {t.dtype} | {t.planted} | {t.mean:.2f} | {t.typical:.2f} |"
        )
    return lines


def _figure(whole: Sequence[Trial], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    part = [t for t in whole if t.dtype == "bfloat16"]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    limits = (Limits().floor_ratio, Limits().floor_typical_ratio)
    for panel, (name, low), limit in zip(panels, MEASURES.items(), limits, strict=True):
        groups = {"healthy": [t for t in part if _is_healthy(t)]}
        groups |= {
            planted: [t for t in part if t.planted == planted]
            for planted in dict.fromkeys(t.planted for t in part if not _is_healthy(t))
        }
        for label, group in groups.items():
            style = {"color": "black", "linewidth": 2.5} if label == "healthy" else {}
            panel.plot(CURVE, [_rate(group, low, f) for f in CURVE], label=label, **style)
        panel.axvline(limit, color="grey", linestyle=":")
        panel.set(title=name, xlabel="factor of the limit", xscale="log")
        panel.set_xticks([1, 1.5, 2, 2.5, 3, 4, 5], labels=["1", "1.5", "2", "2.5", "3", "4", "5"])
        panel.minorticks_off()
    panels[0].set_ylabel("share called more than precision (bfloat16)")
    panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
