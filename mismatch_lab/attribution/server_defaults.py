"""A server that samples with settings of its own, which raw log-probs do not show.

Where log-probs are processed the settings show in them, and are found like those of any engine.
"""

from __future__ import annotations

from typing import Any

from mismatch_lab.attribution.build_cause import build_cause
from mismatch_lab.attribution.sampled_otherwise import CAUSES
from mismatch_lab.schema import Cause, Confirmation, Manifest, Observation

INHERITS = "inherits."
"""Options of a server's capture: what it applies by itself -> share of tokens that it changes."""


def own_settings(manifest: Manifest) -> dict[str, float]:
    """Setting -> share of tokens of a fixed seed that it changed; only those of known causes."""
    said = {n.removeprefix(INHERITS): v for n, v in manifest.options.items() if INHERITS in n}
    return {n: v for n, v in said.items() if n in CAUSES and isinstance(v, float) and v > 0}


def spoiled_by(settings: dict[str, float]) -> dict[str, Any]:
    """A verdict for tokens that are sampled with them; empty where there are none."""
    if not settings:
        return {}
    words = ", ".join(map(_words, settings))
    text = (
        f"The server samples with settings of its own ({words}) that a trainer's requests do not "
        "name and log-probs need not show."
    )
    return {"status": "mismatch", "headline": f"Mismatch: {text}", "reasons": [text]}


def causes_of(settings: dict[str, float], named: set[str]) -> list[Cause]:
    """The causes that are not named already."""
    causes: dict[str, list[str]] = {}
    for name in settings:
        causes.setdefault(CAUSES[name], []).append(name)
    return [_cause(c, {n: settings[n] for n in names}) for c, names in causes.items()
            if c not in named]  # fmt: skip


def _cause(cause: str, settings: dict[str, float]) -> Cause:
    words = " and ".join(map(_words, settings))
    evidence = [
        Observation(
            observation=f"share of tokens that change under one seed where {_words(name)} is said "
            "to be none",
            value=share,
            expected="0 where the server has no such setting",
        )
        for name, share in settings.items()
    ]
    experiment = "share of tokens that differ from plain sampling, without and with it said"
    confirmed = [Confirmation(experiment=experiment, before=max(settings.values()), after=0.0)]
    why = (
        f"Log-probs agree, and the server draws with {words} of its own: asked with one seed, it "
        "draws other tokens as soon as the request says that there is none."
    )
    return build_cause(cause, "infer", 0.95, why, evidence, confirmed)


def _words(name: str) -> str:
    return f"a {name.replace('_', ' ')}" if "penalty" in name else name.replace("_", "-")
