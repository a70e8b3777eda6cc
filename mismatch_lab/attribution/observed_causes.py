"""Causes that show in what was recorded and need no simulation: routers, tokens read, modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mismatch_lab.attribution.rounding_like import looks_like_rounding
from mismatch_lab.attribution.router_choices import (
    DIRECTED,
    NEAR_TIE,
    RouterChoices,
    router_choices,
)
from mismatch_lab.attribution.suspects import CAPTURED, Charge
from mismatch_lab.attribution.token_reads import misread_tokens
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.modules import kind_of
from mismatch_lab.schema import Localisation, ModuleError, Observation

COARSE_ROUNDING = (2.0**-12, 2.0**-5)
"""Relative error of one operation in half precision, from fp16 to a few roundings of bf16."""

KIND_CAUSES = {
    "router": "router-precision",
    "norm": "norm-precision",
    "head": "lm-head-precision",
}
"""Kinds of module whose error, if it has the size of coarse rounding, has a name."""

OF_ITS_KIND, IN_ITS_PLACE, ONLY_THERE = 0.7, 0.6, 0.4
"""Confidence in lost precision: where the error has its size and looks like rounding, where it only
looks so (or was not recorded), and where it merely begins there."""

QUIET = 0.1
"""Tokens before any change of experts must carry less than this share of the others' error."""


@dataclass(frozen=True)
class Observed:
    """A cause that the recorded data show."""

    cause: str
    confidence: float
    location: str | None
    evidence: list[Observation]
    why: str


def observed_causes(
    charge: Charge,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    weights_equal: bool,
) -> list[Observed]:
    """What the data say of a suspect by themselves, the surest first.

    Args:
        charge: the suspect.
        captures: of the run.
        localisation: where modules diverge.
        weights_equal: whether the suspect's weights are known to be the reference's.
    """
    side, reference = captures[CAPTURED[charge.suspect]], captures["ref"]
    choices = router_choices(side, reference)
    if choices is not None and weights_equal:
        named = _routers(choices, charge, captures, localisation)
        if named is not None:
            return [named]
    module = coarse_module(charge, captures, localisation, weights_equal)
    return [] if module is None else [module]


def misread_cause(charge: Charge, captures: Mapping[str, Capture]) -> Observed | None:
    """Other tokens read than given; only where the weights are known to be the reference's."""
    found = misread_tokens(captures[CAPTURED[charge.suspect]], captures["ref"])
    if found is None:
        return None
    cause = "prompt-template" if found.in_prompt == 1 else "retokenisation"
    where = "the prompt" if cause == "prompt-template" else "the answers"
    return Observed(
        cause,
        0.9,
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
    charge: Charge,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
) -> Observed | None:
    evidence = [
        _seen(
            "share of choices that are not the top-k of the router's own logits",
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
        return Observed("router-bias", 0.9, layer, [seen, *evidence], why)
    if choices.against_own_logits > 0 and choices.directed >= DIRECTED:
        why = "Routers choose against their own logits, and always for the same experts."
        return Observed("router-bias", 0.9, place, evidence, why)
    if choices.against_own_logits > 0 and choices.margin <= NEAR_TIE:
        why = "Routers choose against their own logits where these are nearly tied."
        return Observed("routing-flips", 0.8, place, evidence, why)
    if choices.against_own_logits > 0 or not _starts_at_routing(choices, charge, localisation):
        return None
    why = "The error begins at the routers' logits, and their weights are the same."
    confidence = _as_rounding(charge, captures, localisation)
    return Observed("router-precision", confidence, place, evidence, why)


def _starts_at_routing(
    choices: RouterChoices, charge: Charge, localisation: Localisation | None
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
    quiet = choices.quiet_nats <= max(QUIET * choices.loud_nats, charge.noise_nats)
    return quiet and choices.changed > 0


def coarse_module(
    charge: Charge,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    weights_equal: bool,
) -> Observed | None:
    """The first module to leave its floor, if by as much as coarse rounding does and as evenly."""
    module = _first_module(localisation)
    if module is None or not weights_equal or localisation is None:
        return None
    if localisation.side != charge.suspect or module.kind not in KIND_CAUSES:
        return None
    confidence = _as_rounding(charge, captures, localisation)
    if confidence < OF_ITS_KIND:
        return None
    error = _error_of(module, charge)
    return Observed(
        KIND_CAUSES[module.kind],
        confidence,
        module.name,
        [_seen(f"relative error of {module.name} on equal inputs", error, f"{module.floor:.2g}")],
        f"{module.name} is the first to leave its floor, with equal weights, by as much as one "
        "rounding to half precision.",
    )


def _as_rounding(
    charge: Charge, captures: Mapping[str, Capture], localisation: Localisation | None
) -> float:
    """Confidence in lost precision, from what the first wrong module gives on equal inputs."""
    module = _first_module(localisation)
    if module is None:
        return IN_ITS_PLACE
    suspect = "train_on_infer" if charge.suspect == "train" else "prefill"
    if not looks_like_rounding(suspect, captures, module.name):
        return ONLY_THERE
    low, high = COARSE_ROUNDING
    return OF_ITS_KIND if low < _error_of(module, charge) < high else IN_ITS_PLACE


def _error_of(module: ModuleError, charge: Charge) -> float:
    """Relative, on equal inputs; NaN where it was not recorded."""
    return module.train_error if charge.suspect == "train" else module.infer_error


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
