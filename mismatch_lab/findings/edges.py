"""Edges: which two captures are compared under which name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.captures.align import Aligned, align
from mismatch_lab.captures.capture import Capture, first_rows
from mismatch_lab.captures.names import CONFIGURED, HOOKED
from mismatch_lab.measures import Estimate, measure_edge
from mismatch_lab.measures.kl import kl_infer_train_exact
from mismatch_lab.measures.logprob import top1_agreement
from mismatch_lab.schema import EstimateRecord, Measures

EDGES: dict[str, tuple[str, str]] = {
    "decode_train": ("decode", "train"),
    "decode_prefill": ("decode", "prefill_configured"),
    "decode_eager": ("decode", "prefill"),
    "prefill_eager": ("prefill_configured", "prefill"),
    "prefill_train": ("prefill", "train"),
    "train_train": ("train", "train_micro_batch"),
    "train_train.repeat": ("train", "train_repeat"),
    "train_train.train_mode": ("train", "train_mode"),
    "infer_ref": ("prefill", "ref"),
    "train_ref": ("train", "ref"),
    "infer_infer": ("prefill", "prefill_repeat"),
    "decode_second": ("decode", "second"),
    "prefill_second": ("prefill_configured", "second"),
    "second_train": ("second", "train"),
    "second_ref": ("second", "ref"),
}
"""name -> (engine's role, trainer's role): delta is the second minus the first."""

EAGER_EDGES = ("decode_eager", "prefill_eager")
"""Measured where the engine was started twice."""

RESCORED_EDGES = ("decode_prefill", "prefill_train")
"""Not measured of a record without a re-scoring."""

SELF_EDGES = ("train_train", "infer_infer")

EDGE_ABOUT = {
    "decode_train": "what the engine returned while sampling, with the trainer: what RL sees",
    "decode_prefill": "the engine's sampling with its own re-scoring of the same tokens",
    "decode_eager": "the engine's sampling, as configured, with its own eager code",
    "prefill_eager": "the engine's re-scoring, as configured, with its own eager code",
    "prefill_train": "the engine's re-scoring with the trainer: model code, weights, precision",
    "train_train": "the trainer with itself in another micro-batch",
    "train_train.repeat": "the trainer with itself, nothing changed",
    "train_train.train_mode": "the trainer in evaluation and in training mode",
    "infer_ref": "the engine with the fp32 reference",
    "train_ref": "the trainer with the fp32 reference",
    "infer_infer": "the engine with itself, batched otherwise",
    "decode_second": "what the engine returned while sampling, with the second engine",
    "prefill_second": "the engine's re-scoring with the second engine's",
    "second_train": "the second engine with the trainer",
    "second_ref": "the second engine with the fp32 reference",
}


def record(estimate: Estimate) -> EstimateRecord:
    """An estimate as it is written to findings.json."""
    return EstimateRecord(
        value=estimate.value,
        n=estimate.n,
        n_dropped=estimate.n_dropped,
        ci95=(estimate.ci95_low, estimate.ci95_high),
    )


def completed(captures: dict[str, Capture]) -> dict[str, Capture]:
    """The same where there is a re-scoring; where a record has none, what sampling returned stands
    for all that the engine said.
    """
    return {HOOKED: captures["decode"], **captures}


def is_rescored(captures: Mapping[str, Capture]) -> bool:
    """Whether the engine scored its own tokens again; see `completed`."""
    return captures.get(HOOKED) is not captures.get("decode")


def measure_edges(captures: Mapping[str, Capture]) -> dict[str, Measures]:
    """All measures of every edge whose two captures are there."""
    found = {}
    for name, roles in EDGES.items():
        if CONFIGURED not in captures:
            if name in EAGER_EDGES:
                continue
            a, b = (HOOKED if role == CONFIGURED else role for role in roles)
            roles = (a, b)
        a, b = roles
        if name in RESCORED_EDGES and not is_rescored(captures):
            continue  # a capture against itself is no measurement
        if a in captures and b in captures:
            whole = _same_rows(captures[a], captures[b], name)
            found[name] = measure_pair(whole, captures[b], roles)
    return found


def _same_rows(whole: Capture, part: Capture, edge: str) -> Capture:
    """A side is compared with itself on the rows that were repeated."""
    shorter = edge.startswith(SELF_EDGES) and part.rows.n_rows < whole.rows.n_rows
    return first_rows(whole, part.rows.n_rows) if shorter else whole


def measure_pair(infer: Capture, train: Capture, names: tuple[str, str]) -> Measures:
    """All measures of two captures of the same tokens.

    Raises:
        AlignmentError: they do not hold the same tokens.
    """
    pairs = align(infer, train, names)
    measures = {
        name: record(estimate)
        for name, estimate in measure_edge(pairs.logp_a, pairs.logp_b, pairs.row_ids).items()
    }
    return measures | _full_vocabulary(infer, train, pairs)


def _full_vocabulary(infer: Capture, train: Capture, pairs: Aligned) -> Measures:
    if infer.probe_logp is None or train.probe_logp is None or not len(pairs.probes[0]):
        return {}
    a, b = infer.probe_logp[pairs.probes[0]], train.probe_logp[pairs.probes[1]]
    width = min(a.shape[1], b.shape[1])  # engines pad the vocabulary
    rows = infer.rows.row_ids()[infer.probe_positions[pairs.probes[0]]]
    a, b = np.ascontiguousarray(a[:, :width]), np.ascontiguousarray(b[:, :width])
    return {
        "kl_infer_train_exact": record(kl_infer_train_exact(a, b, rows)),
        "top1_agreement": record(top1_agreement(a, b, rows)),
    }
