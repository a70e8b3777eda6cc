"""Causes that a record gives away before its log-probs are compared: copies, and a side that holds
one number throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.candidates import Side, build_cause
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.attribution.token_patterns import FILL
from mismatch_lab.attribution.two_captures import NAMES, OTHER
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Cause, Observation, RecordFindings

COPIED = (
    "Both sides have the same log-probs to the last bit: a record that was copied, not two "
    "measurements."
)
ABOUT_NO_POLICY = frozenset(
    {"copied-logprobs", "missing-logprobs", "sentinel-values", "terminal-token"}
)
"""Causes that no average need show: these tokens are wrong, however the rest agrees."""


def copied_cause(record: RecordFindings) -> list[Cause]:
    """`copied-logprobs` where rows are copies; surer where others differ, since two programs may
    run the same kernels in the same batches.
    """
    if not record.copied_rows:
        return []
    evidence = [
        Observation(
            observation=f"of {record.rows} rows, those with the same log-probs to the last bit "
            f"({record.copied_tokens} tokens)",
            value=record.copied_rows,
            expected="0",
        )
    ]
    if not record.compared_rows:
        return [build_cause("copied-logprobs", "both", CONFIDENCE.copied, COPIED, evidence)]
    evidence.append(
        Observation(
            observation="share of tokens that are equal to the last bit in the other rows, near "
            "certainty left out",
            value=record.equal_elsewhere,
            expected="the same in all rows",
        )
    )
    why = (
        f"In {record.copied_rows} of {record.rows} rows both sides have the same log-probs to the "
        "last bit: these are copies, and no measurement."
    )
    return [build_cause("copied-logprobs", "both", CONFIDENCE.copied_beside_others, why, evidence)]


def one_number_cause(infer: Capture, train: Capture) -> list[Cause]:
    """A side with one and the same number for every token, which the other contradicts: nothing of
    it was recorded.
    """
    sides: tuple[tuple[Side, Capture], ...] = (("infer", infer), ("train", train))
    said = {side: capture.logp[capture.rows.sampled] for side, capture in sides}
    held = {side: logp[~np.isnan(logp)] for side, logp in said.items()}
    for side, other in OTHER.items():
        if not (_is_constant(held[side]) and len(held[other]) and not _is_constant(held[other])):
            continue
        value = float(held[side][0])
        all_of_them = f"All {len(said[side])} log-probs of the {NAMES[side]}"
        why = f"{all_of_them} are {value:g}: none was recorded."
        evidence = Observation(
            observation=f"different log-probs of the {NAMES[side]}; of the {NAMES[other]}, "
            f"{len(np.unique(held[other]))}",
            value=1,
            expected="about as many on both sides",
        )
        id = "missing-logprobs" if value == FILL else "sentinel-values"
        return [build_cause(id, side, CONFIDENCE.token_pattern, why, [evidence])]
    return []


def _is_constant(values: NDArray[np.float32]) -> bool:
    return bool(len(values)) and bool(values.min() == values.max())
