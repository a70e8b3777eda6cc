"""What `loss.old`, rollout correction and `on-policy-ratio` come to together.

Three policies may differ: `infer` sampled the batch, `train` scored it in the trainer before the
first update, `now` is the policy as it is updated. While nothing is clipped, a token's gradient is
multiplied by the clipped ratio and by the correction's weight. `RATIOS` says what that product is
for every combination, and which of them are refused. With `loss.old = "scored"` and a correction
that weighs, the mismatch and the updates are corrected apart (verl calls it decoupled); with
`loss.old = "infer"` one ratio corrects both, and is clipped as one (bypass).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mismatch_lab.errors import InputError
from mismatch_lab.remedies import load_fixes

if TYPE_CHECKING:
    from mismatch_lab.trainer.config import TrainConfig

Corrects = Literal["no", "weighs", "rejects"]
"""Whether rollout correction is on, and gives weights, or (geometric) rejects sequences alone."""


@dataclass(frozen=True)
class Ratio:
    """Of two policies, by their names; "1" where the gradient is left as it is."""

    first: str
    """In the first update on a batch."""
    later: str
    refused: str = ""
    """Why this cannot be meant."""


_TWICE = "rollout-correction weighs tokens that loss.old = infer has weighed already"
_UNDONE = "on-policy-ratio sets to 1 in the first update what loss.old = infer asks for"

RATIOS: dict[tuple[str, Corrects, bool], Ratio] = {
    # loss.old, rollout correction, on-policy-ratio: first update, later ones
    ("scored", "no", False): Ratio("now/train", "now/train"),
    ("scored", "no", True): Ratio("1", "now/train"),
    ("scored", "weighs", False): Ratio("now/infer", "now/infer"),
    ("scored", "weighs", True): Ratio("train/infer", "now/infer"),
    ("scored", "rejects", False): Ratio("now/train", "now/train"),
    ("scored", "rejects", True): Ratio("1", "now/train"),
    ("infer", "no", False): Ratio("now/infer", "now/infer"),
    ("infer", "no", True): Ratio("1", "now/infer", _UNDONE),
    ("infer", "weighs", False): Ratio("now train/infer^2", "now train/infer^2", _TWICE),
    ("infer", "weighs", True): Ratio("train/infer", "now train/infer^2", _TWICE),
    ("infer", "rejects", False): Ratio("now/infer", "now/infer"),
    ("infer", "rejects", True): Ratio("1", "now/infer", _UNDONE),
}


def ratio_of(config: TrainConfig) -> Ratio:
    """The row of a run."""
    fixes = load_fixes(config.fixes)
    corrects: Corrects = "no"
    if fixes.correct is not None:
        corrects = "rejects" if config.correction.kind == "geometric" else "weighs"
    return RATIOS[config.loss.old, corrects, fixes.old_logp is not None]


def check_ratio(config: TrainConfig) -> None:
    """Raise InputError for a combination that weighs twice, or that undoes what it asks for."""
    ratio = ratio_of(config)
    if ratio.refused:
        raise InputError(
            f"{ratio.refused}: a token's gradient would be multiplied by {ratio.first} in the "
            f"first update and by {ratio.later} in later ones.",
            'Leave out one of them; with fixes, loss.old = "scored" is what they are made for.',
        )
