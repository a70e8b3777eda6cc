"""Causes in what an engine keeps over a weight update: cached keys and values, captured graphs."""

from __future__ import annotations

from mismatch_lab.attribution.decode_rows import DecodeRows
from mismatch_lab.schema import Cause, Confirmation, Observation, Remedy

DROP_CACHE = Remedy(
    id="reset-prefix-cache", how="Reset the prefix cache after every weight update."
)
RECAPTURE = Remedy(
    id="recapture-graphs",
    how="Copy new weights into the tensors that the graphs captured, or capture the graphs anew.",
)


def cache_causes(rows: DecodeRows) -> list[Cause]:
    """Sampling that differs from re-scoring since an update: where, decides between the two."""
    cached, uncached = rows.cached, rows.uncached
    wrong_cached = cached > rows.limit
    wrong_uncached = uncached > rows.limit
    causes = []
    if rows.prefix_caching and wrong_cached and not wrong_uncached:
        causes.append(_decode_cause("stale-prefix-cache", "cache", rows, DROP_CACHE, 0.95))
    elif rows.graphs and wrong_uncached:
        causes.append(_decode_cause("stale-graph", "cache", rows, RECAPTURE, 0.8))
    return causes


def _decode_cause(
    cause: str, family: str, rows: DecodeRows, remedy: Remedy, confidence: float
) -> Cause:
    seen = (
        (f"{rows.n_cached} rows with a cached prefix", rows.cached),
        (f"{rows.n_uncached} rows without", rows.uncached),
    )
    return Cause.model_validate(
        {
            "id": cause,
            "family": family,
            "side": "infer",
            "confidence": confidence,
            "location": None,
            "evidence": [
                Observation(
                    observation=f"sampling against re-scoring after the update, {which}",
                    value=value,
                    expected=f"at most {rows.limit:.2g} nats",
                )
                for which, value in seen
            ],
            "confirmed_by": [
                Confirmation(
                    experiment="the same tokens scored anew, without what the engine keeps",
                    before=rows.decode_train,
                    after=rows.prefill_train,
                )
            ],
            "remedy": remedy,
        }
    )
