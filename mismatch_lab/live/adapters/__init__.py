"""Adapters: how a monitor gets what a framework's own loop knows. One table, `ADAPTERS`.

Each uses what the framework has for it, or wraps one function of it, and says with which versions
it was run. Another version is said to be one, in a warning; nothing about it is guessed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Adapter:
    """What is known of a framework's hook."""

    module: str
    package: str
    hook: str
    """What of the framework is used."""
    run_with: tuple[str, ...]
    """Versions of the package that the adapter's tests run with; empty where none was run."""
    read_in: str
    """Source that it was written from."""


_HERE = "mismatch_lab.live.adapters"

ADAPTERS: Mapping[str, Adapter] = {
    "trl": Adapter(
        f"{_HERE}.trl",
        "trl",
        "wraps GRPOTrainer._generate_and_score_completions",
        ("1.16.0",),
        "wheel 1.16.0",
    ),
    "verl": Adapter(
        f"{_HERE}.verl",
        "verl",
        "entry point verl.plugins, which wraps calculate_debug_metrics",
        ("0.9.1",),
        "wheel 0.9.1",
    ),
    "slime": Adapter(
        f"{_HERE}.slime",
        "slime",
        "option --rollout-data-postprocess-path",
        (),
        "git 624b824a8 (2026-08)",
    ),
    "prime-rl": Adapter(
        f"{_HERE}.prime_rl",
        "prime-rl",
        "option trainer.loss.import_path",
        (),
        "git 559b44772 (0.8.0)",
    ),
    "nemo-rl": Adapter(
        f"{_HERE}.nemo_rl",
        "nemo-rl",
        "wraps Logger.log_batched_dict_as_jsonl",
        (),
        "git 7ea279abf (0.6.0)",
    ),
}
"""By framework. A loop of one's own needs none: it calls `MismatchMonitor.observe`."""


def say_untested(name: str) -> None:
    """Warn where the framework that is installed is not one that the adapter was run with.

    Args:
        name: of an adapter.
    """
    adapter = ADAPTERS[name]
    try:
        found = version(adapter.package)
    except PackageNotFoundError:
        found = "of unknown version"
    if found in adapter.run_with:
        return
    known = ", ".join(adapter.run_with)
    tested = f"was run with {known} alone" if known else f"was written from {adapter.read_in}"
    warnings.warn(
        f"mismatch-lab's hook for {name} {tested}, and this is {name} {found}: look whether "
        "metrics are written. Nothing is stopped where they are not.",
        stacklevel=3,
    )
