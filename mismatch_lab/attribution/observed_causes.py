"""Causes that show in what was recorded and need no simulation: routers, tokens read, modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mismatch_lab.attribution.routers import RouterChoices, router_choices
from mismatch_lab.attribution.suspects import CAPTURED, SIDE, Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.attribution.token_patterns import misread_tokens
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import kind_of
from mismatch_lab.findings.held_against import Side, held_against
from mismatch_lab.findings.module_error import module_pair
from mismatch_lab.schema import Localisation, ModuleError, Observation


def looks_like_rounding(side: Side, captures: Mapping[str, Capture], module: str) -> bool:
    """True also where outputs were not recorded: nothing speaks against it then.

    Args:
        side: of the suspect.
        captures: of the run.
        module: whose outputs are compared with the reference's, on equal inputs.
    """
    wrong, right = (captures.get(name) for name in held_against(captures, side))
    if wrong is None or right is None:
        return True
    left, expected = module_pair(wrong, right, module)
    if left is None or expected is None:
        return True
    rows = np.isfinite(left).all(axis=1) & np.isfinite(expected).all(axis=1)
    error = left[rows].astype(np.float64) - expected[rows]
    # A head's log-probs all move with their normaliser.
    error -= np.median(error, axis=1, keepdims=True)
    size = np.linalg.norm(error)
    if not size:
        return True
    touched = np.mean(np.abs(error) > THRESHOLDS.rounded_output_error * size / np.sqrt(error.size))
    along = np.sum(error * expected[rows]) / (size * np.linalg.norm(expected[rows]))
    return bool(
        touched >= THRESHOLDS.rounded_outputs_share and abs(along) <= THRESHOLDS.rounding_cosine
    )


KIND_CAUSES = {
    "router": "router-precision",
    "norm": "norm-precision",
    "head": "lm-head-precision",
}
"""Kinds of module whose error, if it has the size of coarse rounding, has a name."""


@dataclass(frozen=True)
class Observed:
    """A cause that the recorded data show."""

    cause: str
    confidence: float
    location: str | None
    evidence: list[Observation]
    why: str


def observed_causes(
    suspect: Suspect,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    weights_equal: bool,
) -> list[Observed]:
    """What the data say of a suspect by themselves, the surest first.

    Args:
        suspect: the suspect.
        captures: of the run.
        localisation: where modules diverge.
        weights_equal: whether the suspect's weights are known to be the reference's.
    """
    side, reference = captures[CAPTURED[suspect.name]], captures["ref"]
    choices = router_choices(side, reference, captures.get("floor"))
    if choices is not None and weights_equal:
        named = _routers(choices, suspect, captures, localisation)
        if named is not None:
            return [named]
    module = coarse_module(suspect, captures, localisation, weights_equal)
    return [] if module is None else [module]


def misread_cause(suspect: Suspect, captures: Mapping[str, Capture]) -> Observed | None:
    """Other tokens read than given; only where the weights are known to be the reference's."""
    found = misread_tokens(captures[CAPTURED[suspect.name]], captures["ref"])
    if found is None:
        return None
    cause = "prompt-template" if found.in_prompt == 1 else "retokenisation"
    where = "the prompt" if cause == "prompt-template" else "the answers"
    return Observed(
        cause,
        CONFIDENCE.misread_tokens,
        None,
        [
            _seen(
                f"positions at which the first layer gets another token's embedding, of "
                f"{found.seen}",
                len(found.flat),
                "0",
            ),
            _seen("share of these in the prompt", found.in_prompt, "1 for another prompt"),
        ],
        f"This side reads other tokens than it was given, in {where}.",
    )


def _routers(
    choices: RouterChoices,
    suspect: Suspect,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
) -> Observed | None:
    evidence = [
        _seen(
            "share of choices that are the first in their row to be other than the reference's"
            if choices.by_reference
            else "share of choices that are not the top-k of the router's own logits",
            choices.against_own_logits,
            "0",
        ),
        _seen("how one-sidedly experts gain by that", choices.directed, "near 0 by chance"),
        _seen(
            "mean |delta| before any change of experts, in nats",
            choices.quiet_nats,
            "the noise, where the routers are the cause",
        ),
        _seen("mean |delta| after one, in nats", choices.loud_nats, ""),
    ]
    place = _first_of_kind(localisation, ("router", "experts", "mlp"))
    if choices.first_layer is not None:
        place = f"model.layers.{choices.first_layer}.mlp"
    if choices.uncorrected > 0:
        seen = _seen(
            "share of choices that follow the router's own logits where the reference's do not",
            choices.uncorrected,
            "0",
        )
        layer = f"model.layers.{choices.first_uncorrected}.mlp"
        why = (
            "The reference's routers choose against their logits, by a correction bias or within "
            "groups; this side's take the largest logits."
        )
        return Observed("router-bias", CONFIDENCE.against_own_logits, layer, [seen, *evidence], why)
    if choices.by_reference:
        return _of_choices(choices, place, evidence)
    if choices.against_own_logits > 0 and choices.directed >= THRESHOLDS.one_way_share:
        why = "Routers choose against their own logits, and always for the same experts."
        return Observed("router-bias", CONFIDENCE.against_own_logits, place, evidence, why)
    if choices.against_own_logits > 0 and choices.margin <= THRESHOLDS.near_tie_margin:
        why = "Routers choose against their own logits where these are nearly tied."
        return Observed("routing-flips", CONFIDENCE.near_tie_flips, place, evidence, why)
    if choices.against_own_logits > 0 or not _starts_at_routing(choices, suspect, localisation):
        return None
    why = "The error begins at the routers' logits, and their weights are the same."
    confidence = _as_rounding(suspect, captures, localisation)
    return Observed("router-precision", confidence, place, evidence, why)


def _of_choices(
    choices: RouterChoices, place: str | None, evidence: list[Observation]
) -> Observed | None:
    """What choices alone say: which way they go, and how near the logits of the reference are."""
    if choices.directed >= THRESHOLDS.one_way_share:
        why = (
            "Routers choose otherwise than the reference's do, always for the same experts: a bias "
            "that selects, or other weights of the routers; logits, which would tell, were not "
            "recorded."
        )
        return Observed("router-bias", CONFIDENCE.choices_alone, place, evidence, why)
    if choices.margin <= THRESHOLDS.near_tie_margin:
        why = "Routers choose otherwise than the reference's do, where these are nearly tied."
        return Observed("routing-flips", CONFIDENCE.choices_alone, place, evidence, why)
    return None


def _starts_at_routing(
    choices: RouterChoices, suspect: Suspect, localisation: Localisation | None
) -> bool:
    """Whether everything before the first router is sound: by its modules, where they were
    recorded, else by the tokens that come before any change of experts.
    """
    first = _first_module(localisation)
    if first is not None and localisation is not None:
        layer = first.name.rpartition(".mlp")[0]
        recorded = any(
            m.kind == "router" and m.name.startswith(f"{layer}.mlp.")
            for m in localisation.per_module
        )
        # What runs after a sound router is no router.
        return first.kind == "router" or (first.kind in ("experts", "mlp") and not recorded)
    quiet = choices.quiet_nats <= max(
        THRESHOLDS.before_flip_share * choices.loud_nats, suspect.noise_nats
    )
    return quiet and choices.changed > 0


def coarse_module(
    suspect: Suspect,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    weights_equal: bool,
) -> Observed | None:
    """The first module to leave its floor, if by as much as coarse rounding does and as evenly."""
    module = _first_module(localisation)
    if module is None or not weights_equal or localisation is None:
        return None
    if localisation.side != suspect.name or module.kind not in KIND_CAUSES:
        return None
    confidence = _as_rounding(suspect, captures, localisation)
    if confidence < CONFIDENCE.rounding_of_its_size:
        return None
    error = _error_of(module, suspect)
    return Observed(
        KIND_CAUSES[module.kind],
        confidence,
        module.name,
        [_seen(f"relative error of {module.name} on equal inputs", error, f"{module.floor:.2g}")],
        f"{module.name} is the first to leave its floor, with equal weights, by as much as one "
        "rounding to half precision.",
    )


def _as_rounding(
    suspect: Suspect, captures: Mapping[str, Capture], localisation: Localisation | None
) -> float:
    """Confidence in lost precision, from what the first wrong module gives on equal inputs."""
    module = _first_module(localisation)
    if module is None:
        return CONFIDENCE.rounding_in_its_place
    if not looks_like_rounding(SIDE[suspect.name], captures, module.name):
        return CONFIDENCE.begins_there
    low, high = THRESHOLDS.coarse_rounding
    return (
        CONFIDENCE.rounding_of_its_size
        if low < _error_of(module, suspect) < high
        else CONFIDENCE.rounding_in_its_place
    )


def _error_of(module: ModuleError, suspect: Suspect) -> float:
    """Relative, on equal inputs; NaN where it was not recorded."""
    return module.train_error if suspect.name == "train" else module.infer_error


def _first_module(localisation: Localisation | None) -> ModuleError | None:
    if localisation is None or localisation.first_divergent_module is None:
        return None
    first = localisation.first_divergent_module
    return next((m for m in localisation.per_module if m.name == first), None)


def _first_of_kind(localisation: Localisation | None, kinds: tuple[str, ...]) -> str | None:
    if localisation is None:
        return None
    diverging = [m.name for m in localisation.per_module if m.diverges and kind_of(m.name) in kinds]
    return diverging[0] if diverging else None


def _seen(observation: str, value: float, expected: str) -> Observation:
    return Observation(observation=observation, value=value, expected=expected or "larger")
