"""What a comparison shows: the metrics that are drawn, and those that stand in the table alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mismatch_lab.measures.edge import EDGE_MEASURES

Part = Literal["learning", "policy", "mismatch"]

HELD_OUT_PART = "heldout/"
"""What is measured on held-out problems, now and then, begins so."""
HELD_OUT = f"{HELD_OUT_PART}reward"
GAIN = f"{HELD_OUT_PART}gain"
"""Last held-out reward minus the first: of a run, not of a step."""
MEAN_ABS_DELTA = "decode_train/abs_delta_mean"
EDGES = {"decode_train": "engine against trainer", "train_train": "trainer's two passes"}


@dataclass(frozen=True)
class Shown:
    """One metric as people see it."""

    title: str
    part: Part
    unit: str
    caption: str
    drawn: bool = True
    spans_decades: bool = False
    """Drawn on a log axis where values differ enough."""

    @property
    def bounds(self) -> tuple[float, float]:
        """What the measure lies between, whatever the run; of a gain it is minus 1 to 1."""
        if self.unit in ("mean reward", "mean", "share"):
            return 0.0, 1.0
        return 0.0 if self.spans_decades else -math.inf, math.inf

    @property
    def bounds_of_difference(self) -> tuple[float, float]:
        """What the difference of two runs lies between."""
        low, high = self.bounds
        return low - high, high - low


SHOWN: dict[str, Shown] = {
    HELD_OUT: Shown(
        "Held-out accuracy",
        "learning",
        "mean reward",
        "Greedy answers of the engine to problems that are never trained on.",
    ),
    GAIN: Shown("Held-out gain, last minus first", "learning", "mean reward", "", drawn=False),
    "reward": Shown(
        "Reward",
        "learning",
        "mean",
        "Mean over the answers sampled for the step; other problems each step, so it jumps.",
    ),
    "truncated_share": Shown(
        "Truncated episodes",
        "learning",
        "share",
        "They ran out of room, and seldom have the right answer: a reward that rises as this falls "
        "may be that of stopping in time.",
    ),
    "heldout/truncated_share": Shown(
        "Held-out episodes truncated", "learning", "share", "", drawn=False
    ),
    "entropy": Shown(
        "Entropy",
        "policy",
        "nats/token",
        "Of the trainer's distribution at sampled tokens. A fall to 0 is a collapse onto few "
        "answers.",
    ),
    "kl_ref": Shown(
        "KL to the start",
        "policy",
        "nats/token",
        "KL(policy ‖ start) by k3 over the sampled tokens, start being the model that training "
        "began with: unbiased where engine and trainer are one policy.",
    ),
    "updates_skipped": Shown(
        "Updates skipped", "policy", "of a step", "Their gradient was not finite.", drawn=False
    ),
    "grad_norm": Shown(
        "Gradient norm",
        "policy",
        "",
        "Before it is clipped.",
        spans_decades=True,
    ),
    "clip_fraction": Shown(
        "Clip fraction",
        "policy",
        "share",
        "Of the loss's weight that the clipped ratio takes the gradient from. On-policy it is 0.",
    ),
    "answer_tokens": Shown(
        "Length of answers", "policy", "tokens", "Mean number of sampled tokens.", drawn=False
    ),
    MEAN_ABS_DELTA: Shown(
        "Mean |Δ|",
        "mismatch",
        "nats",
        "Log-probs of sampled tokens, engine against trainer. A ratio taken of the trainer's own "
        "passes does not see it.",
        spans_decades=True,
    ),
    "decode_train/kl_infer_train_k3": Shown(
        "KL(infer ‖ train), k3",
        "mismatch",
        "nats/token",
        "0 if both sides are the same policy.",
        spans_decades=True,
    ),
    "decode_train/ess": Shown(
        "Effective sample fraction", "mismatch", "share", "1 is on-policy; near 0 few tokens count."
    ),
    "decode_train/ratio_outside_share": Shown(
        "Ratios outside [0.8, 1.25]",
        "mismatch",
        "share",
        "Tokens that one side finds that much likelier.",
    ),
    "train_train/abs_delta_mean": Shown(
        "Mean |Δ| of two passes",
        "mismatch",
        "nats",
        "The trainer's scoring pass against its own gradient pass, before any step.",
        spans_decades=True,
    ),
    "routing/set_agreement": Shown(
        "Agreement on experts",
        "mismatch",
        "share",
        "Places where the trainer's own experts are the engine's; only where they are recorded.",
    ),
    "correction/weight_mean": Shown(
        "Mean importance weight",
        "mismatch",
        "",
        "Of rollout correction; 1 changes nothing.",
    ),
    "correction/dropped_share": Shown(
        "Tokens without weight", "mismatch", "share", "Of rollout correction.", drawn=False
    ),
    "tokens_dropped": Shown(
        "Tokens without a log-prob of the engine",
        "mismatch",
        "tokens",
        "Not finite: they are in no loss.",
        drawn=False,
    ),
}
for _edge, _words in EDGES.items():
    for _name, _measure in EDGE_MEASURES.items():
        _unit = "" if _measure.unit == "1" else _measure.unit
        SHOWN.setdefault(
            f"{_edge}/{_name}",
            Shown(f"{_measure.description} ({_words})", "mismatch", _unit, "", drawn=False),
        )
SHOWN["seconds/step"] = Shown("Time of a step", "policy", "s", "", drawn=False)
