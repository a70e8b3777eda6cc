"""Whether sampled tokens were drawn from what is reported, and what would have been noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.draws import Float64
from mismatch_lab.measures.calibration import calibration
from mismatch_lab.measures.suppositions import (
    CERTAIN_NATS,
    CERTAIN_Z,
    FAMILIES,
    NEVER_DRAWN,
    NOTICED_WITH,
    held_out,
    likeliest,
    never_drawn,
    never_drawn_noticed,
    noticed,
)
from mismatch_lab.schema import DrawnFindings, Sampling, SuppositionRecord

WORDS = {
    "temperature": "a temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "min_p": "min-p",
    "repetition_penalty": "a repetition penalty",
    "presence_penalty": "a presence penalty",
    "frequency_penalty": "a frequency penalty",
    NEVER_DRAWN: "a token that is never drawn",
}
"""Family of suppositions -> what it is, for people."""


def measure_drawn(captures: Mapping[str, Capture], sampling: Sampling) -> DrawnFindings | None:
    """Hold the sampled tokens against the distributions of the engine's own re-scoring.

    None where there are none. They are the engine's own, not the reference's: in half precision, or
    with a defect of the model, those would be other distributions than the ones it draws from.

    Args:
        captures: of the run.
        sampling: as it was asked for.
    """
    decode, prefill = captures.get("decode"), captures.get("prefill")
    if decode is None or prefill is None or prefill.draws is None:
        return None
    align(decode, prefill, ("decode", "prefill"))
    draws, sampled = prefill.draws, prefill.rows.sampled
    test = calibration(decode.logp[sampled], draws.entropy[sampled], draws.variance[sampled])
    suppositions = [_supposition(name, draws.gains[name], sampling) for name in FAMILIES]
    never = never_drawn(draws.expected_counts, prefill.rows.token_ids[sampled])
    enough = never_drawn_noticed(len(draws.expected_counts))
    suppositions.append(
        SuppositionRecord(
            name=NEVER_DRAWN,
            value=never.value,
            between=(never.low, never.high),
            gain_nats=never.nats,
            held_out_nats=math.nan,
            noticed_below=math.nan,
            noticed_above=enough,
        )
    )
    return DrawnFindings(
        n=test.n,
        n_impossible=test.n_impossible,
        z=test.z,
        z_limit=CERTAIN_Z,
        gain_limit_nats=CERTAIN_NATS,
        suppositions=suppositions,
    )


def _supposition(name: str, by_row: Float64, sampling: Sampling) -> SuppositionRecord:
    """The likeliest number of a family in all rows; of temperatures, over that of the report."""
    gains = by_row.sum(axis=0)
    found, limits = likeliest(name, gains), noticed(name, gains)
    unit = sampling.temperature if name == "temperature" else 1.0
    return SuppositionRecord(
        name=name,
        value=unit * found.value,
        between=(unit * found.low, unit * found.high),
        gain_nats=found.nats,
        held_out_nats=held_out(name, by_row[::2].sum(axis=0), by_row[1::2].sum(axis=0)),
        noticed_below=unit * limits.below,
        noticed_above=unit * limits.above,
    )


def disproved(drawn: DrawnFindings) -> bool:
    """Whether the drawn tokens disprove the report, at the error rate of `suppositions`."""
    likely = any(s.gain_nats >= drawn.gain_limit_nats for s in drawn.suppositions)
    return likely or abs(drawn.z) >= drawn.z_limit or drawn.n_impossible > 0


def in_words(supposition: SuppositionRecord) -> str:
    """What is supposed: "top-k of 29 (29 to 33)"."""
    if supposition.name == NEVER_DRAWN:
        return f"{supposition.value:.0f} tokens that cannot be drawn"
    low, high = supposition.between
    others = f" ({low:.3g} to {high:.3g})" if low < high else ""
    return f"{WORDS[supposition.name]} of {supposition.value:.3g}{others}"


def what_would_be_noticed(drawn: DrawnFindings) -> str:
    """In words: how far sampling could be from what is reported and pass."""
    seen: list[str] = []
    unseen: list[str] = []
    for supposition in drawn.suppositions:
        words = WORDS[supposition.name]
        below, above = supposition.noticed_below, supposition.noticed_above
        if supposition.name == NEVER_DRAWN:
            seen.append(f"{words} and was to be expected {above:.0f} times")
            continue
        parts = [f"up to {below:.3g}"] if math.isfinite(below) else []
        parts += [f"from {above:.3g} on"] if math.isfinite(above) else []
        (seen if parts else unseen).append(" ".join([words, " or ".join(parts)]).strip())
    text = (
        f"Sampling that differs from what is reported would have been noticed in {drawn.n} tokens "
        f"({NOTICED_WITH:.0%}): {', '.join(seen)}"
    )
    return f"{text}; not {', '.join(unseen)}." if unseen else f"{text}."
