"""What a server does not show, in words for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.http.server import Scored

NOTHING_CHANGED = "A server is not changed: engine http takes no plugin and no weight update."
NO_REPLAYS = (
    "A server cannot replay another side's inputs or routing, be altered for one job, nor run in "
    "training mode."
)
APART = "Diagnose each with a run of its own: --engine-url once."

HIDDEN = "a server returns no hidden states: in which module it differs was not looked at"
FINGERPRINTS = (
    "a server shows no tensors: whether its weights are the checkpoint's is told from what it "
    "answers"
)
DRAWS = (
    "whether sampled tokens are drawn from what is reported was not tested: that needs every "
    "distribution of the engine"
)


def always(request: ScoreRequest) -> dict[str, str]:
    """Gaps of every server."""
    found = {"fingerprints": FINGERPRINTS}
    if request.tap_rows:
        found["hidden states"] = HIDDEN
    if request.draws:
        found["draws"] = DRAWS
    return found


def served_from(root: str, model: str) -> str:
    """Where a server has its model from, if that is another place than MODEL; else empty."""
    if not root or root == model or Path(root) == Path(model).absolute():
        return ""
    return f"it says that it has its model from {root}, and MODEL is {model}"


def dtype_taken(dtype: str) -> str:
    """What the noise floor rests on."""
    return f"the server does not say in which precision it computes: taken to be {dtype} (--dtype)"


def no_distributions(returned: int, vocabulary: int) -> str:
    """Why there are no whole distributions."""
    if returned < vocabulary:
        return (
            f"the server returns {returned} log-probs at a position, the vocabulary has "
            f"{vocabulary:,}: start it with --max-logprobs -1 to compare whole distributions"
        )
    return f"distributions over {vocabulary:,} tokens of rows so long are too large to be sent"


def not_at_temperature(lost: int, of: int, temperature: float, returned: int) -> str:
    """Why log-probs at a temperature are missing."""
    return (
        f"{lost} of {of} sampled tokens: the server scores at temperature 1, and from the "
        f"{returned} likeliest tokens at most those at {temperature:g} do not follow closely "
        "enough; --max-logprobs -1 returns the rest"
    )


def experts(
    found: NDArray[np.int64] | None, tokens: int, per_token: int
) -> NDArray[np.int16] | None:
    """[n, L, K] choices; -1 where nothing was chosen. None where they are not that."""
    if found is None or not per_token or not found.size:
        return None
    if found.ndim == 2:  # flat
        if found.shape[1] % per_token:
            return None
        found = found.reshape(len(found), -1, per_token)
    if found.shape[2] != per_token or found.min() < 0 or found.max() > np.iinfo(np.int16).max:
        return None
    chosen = found.astype(np.int16)
    missing = np.full((tokens - len(chosen), *chosen.shape[1:]), -1, np.int16)
    whole: NDArray[np.int16] = np.concatenate([chosen, missing])
    return whole


def no_routing(chosen: list[NDArray[np.int16] | None], answers: list[Scored]) -> str:
    """Why choices of experts were not recorded; empty where they were."""
    if all(answer.experts is None for answer in answers):
        return (
            "the server returns none: start it with --enable-return-routed-experts to compare "
            "choices of experts"
        )
    if any(one is None for one in chosen):
        return "what the server returns as routed experts are no choices of this model's"
    if not any(_differ(one) for one in chosen if one is not None):
        return (
            "the server returns one expert for every place of a token, which is no routing (SGLang "
            "0.5.17 returns zeros where moe_runner_backend is auto)"
        )
    return ""


def _differ(chosen: NDArray[np.int16]) -> bool:
    """Whether any token has different experts, as top-k choices are; of one a token, any but 0."""
    if chosen.shape[2] == 1:
        return bool((chosen > 0).any())
    return bool((chosen[:, :, 1:] != chosen[:, :, :1]).any())
