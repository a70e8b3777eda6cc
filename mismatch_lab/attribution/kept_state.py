"""What an engine keeps over a weight update, cached keys and values and captured graphs: sampling
against re-scoring, rows with a cached prefix apart from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.engines.base import CACHED_TOKENS
from mismatch_lab.schema import Cause, Confirmation, Manifest, Observation


@dataclass(frozen=True)
class DecodeRows:
    """Mean |delta| in nats on sampled tokens; NaN where there are no such rows."""

    cached: float
    """Sampling against re-scoring, rows whose prompt began with cached blocks."""
    uncached: float
    n_cached: int
    n_uncached: int
    decode_train: float
    prefill_train: float
    prefix_caching: bool
    graphs: bool
    """Whether the engine replays captured graphs."""
    limit: float
    """Beyond it sampling and re-scoring disagree."""


def decode_rows(
    decode: Capture, prefill: Capture, train: Capture, manifest: Manifest, limit: float
) -> DecodeRows:
    """Split a run's rows by whether their prefix was cached.

    Args:
        decode: what sampling returned.
        prefill: the engine's re-scoring, which reads no cache.
        train: the trainer's.
        manifest: of `decode`; its options say what was cached.
        limit: in nats.
    """
    rows, said = decode.rows, manifest.options  # vLLM's names of settings, or SGLang's
    counts = [int(word) for word in str(said.get(CACHED_TOKENS, "")).split()]
    # In conversations every turn is a request: none counts as cached.
    counts = counts if len(counts) == rows.n_rows else [0] * rows.n_rows
    cached = (np.array(counts) > 0)[rows.row_ids()]
    return DecodeRows(
        cached=_mean_abs(decode.logp - prefill.logp, rows.sampled & cached),
        uncached=_mean_abs(decode.logp - prefill.logp, rows.sampled & ~cached),
        n_cached=sum(count > 0 for count in counts),
        n_uncached=sum(count == 0 for count in counts),
        decode_train=_mean_abs(decode.logp - train.logp, rows.sampled),
        prefill_train=_mean_abs(prefill.logp - train.logp, rows.sampled),
        prefix_caching=bool(
            said.get("enable_prefix_caching", not said.get("disable_radix_cache", True))
        ),
        graphs=not said.get("enforce_eager", said.get("disable_cuda_graph", True)),
        limit=limit,
    )


def _mean_abs(delta: Float32, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    values = np.abs(delta[chosen].astype(np.float64))
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def cache_causes(rows: DecodeRows) -> list[Cause]:
    """Sampling that differs from re-scoring since an update: where, decides between the two."""
    cached, uncached = rows.cached, rows.uncached
    wrong_cached = cached > rows.limit
    wrong_uncached = uncached > rows.limit
    if rows.prefix_caching and wrong_cached and not wrong_uncached:
        return [_decode_cause("stale-prefix-cache", rows, CONFIDENCE.cached_rows_alone)]
    if rows.graphs and wrong_uncached:
        return [_decode_cause("stale-graph", rows, CONFIDENCE.graphs_replayed)]
    return []


def _decode_cause(cause: str, rows: DecodeRows, confidence: float) -> Cause:
    seen = (
        (f"{rows.n_cached} rows with a cached prefix", rows.cached),
        (f"{rows.n_uncached} rows without", rows.uncached),
    )
    evidence = [
        Observation(
            observation=f"sampling against re-scoring after the update, {which}",
            value=value,
            expected=f"at most {rows.limit:.2g} nats",
        )
        for which, value in seen
    ]
    confirmation = Confirmation(
        experiment="the same tokens scored anew, without what the engine keeps",
        before=rows.decode_train,
        after=rows.prefill_train,
    )
    return build_cause(cause, "infer", confidence, "", evidence, [confirmation])
