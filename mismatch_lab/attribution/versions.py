"""Causes that an update of the engine's weights leaves behind: from tensors and caches to names.

Sides: what is wrong only since an update, or is the checkpoint of before it, is `sync`. No model
code is wrong then, a new engine on the same checkpoint is right, and it is the delivery that has to
be mended, whichever program does it. What outlives the update inside the engine (cached keys and
values, captured graphs) is `infer`: the weights arrived, and the engine has to drop what it keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

from mismatch_lab.attribution.decode_rows import DecodeRows
from mismatch_lab.attribution.kept_causes import cache_causes
from mismatch_lab.attribution.mixture import MixtureCheck, tied
from mismatch_lab.findings.modules import kind_of
from mismatch_lab.findings.versions import TensorUse, Versions
from mismatch_lab.schema import Cause, Confirmation, Observation, Remedy
from mismatch_lab.tensor_patterns import by_pattern, only_projections, summary

NEW_ENGINE = Remedy(
    id="new-engine",
    how="Start a new engine on the newest checkpoint, or send the tensors named here by a path "
    "that reaches them; compare log-probs after every update.",
)

UNRELATED = 0.5
"""Relative error from which on a module's output has little to do with the right one (two unrelated
outputs of one size are 1.4 apart)."""


def version_causes(
    versions: Versions | None,
    check: MixtureCheck | None = None,
    decode: DecodeRows | None = None,
) -> list[Cause]:
    """Causes that the versions of tensors, and sampling against re-scoring, give evidence of.

    Args:
        versions: of every changed tensor; None without `--weights-before`.
        check: the engine against the reference with `stale_weights`, where it was run.
        decode: sampling against re-scoring by row, where the run had a weight update.
    """
    causes = [] if decode is None else cache_causes(decode)
    if versions is not None:
        causes += _weight_causes(versions, check)
    return sorted(causes, key=lambda cause: -cause.confidence)


def _weight_causes(versions: Versions, check: MixtureCheck | None) -> list[Cause]:
    old = versions.in_state("old")
    low_rank = [use for use in versions.uses if use.change.rank is not None]
    names = {use.group.name for use in low_rank}
    if only_projections(tuple(u.group.name for u in versions.uses)):
        # Stored values can be too coarse to tell the rank of so small a change in each.
        names = {use.group.name for use in versions.uses}
    if old and {u.group.name for u in old} == names:
        return [_adapter(old, versions, check)]
    if old and not versions.in_state("new"):
        return [_stale("stale-weights", old, versions, check)]
    causes = []
    pair = [use for use in versions.uses if tied(use)]
    states = {use.state for use in pair}
    if states == {"new", "old"}:
        causes.append(_untied(pair, versions, check))
        old = [use for use in old if not tied(use)]
    if old:
        causes.append(_stale("stale-tensor", old, versions, check))
    return causes + _layout(versions)


def _stale(
    cause: str, old: list[TensorUse], versions: Versions, check: MixtureCheck | None
) -> Cause:
    names = [use.group.name for use in old]
    return Cause(
        id=cause,
        family="weights",
        side="sync",
        confidence=_confidence(versions, check),
        location=None if cause == "stale-weights" else summary(names),
        evidence=[_counted(versions, "old", len(old)), *_errors(old)],
        confirmed_by=_confirmed(old, check),
        remedy=NEW_ENGINE,
    )


def _adapter(old: list[TensorUse], versions: Versions, check: MixtureCheck | None) -> Cause:
    ranks = [use.change.rank for use in old if use.change.rank is not None]
    rank = Observation(
        observation="largest rank of the change of a tensor that stayed old"
        if ranks
        else "tensors that changed, projections all, and stayed old",
        value=max(ranks, default=len(old)),
        expected="an adapter's: every tensor that changed by a low rank is old, and no other",
    )
    cause = _stale("adapter-not-delivered", old, versions, check)
    return cause.model_copy(update={"evidence": [rank, *cause.evidence]})


def _untied(pair: list[TensorUse], versions: Versions, check: MixtureCheck | None) -> Cause:
    stale = [use for use in pair if use.state == "old"]
    return Cause(
        id="untied-head",
        family="weights",
        side="sync" if versions.weight_update else "infer",
        confidence=_confidence(versions, check),
        location=stale[0].module,
        evidence=[
            Observation(
                observation=f"{use.module} runs with the {use.state} {use.group.name}: its error "
                f"against the reference with the other one",
                value=use.error_new if use.state == "old" else use.error_old,
                expected=f"at most {use.limit:.2g} if head and embedding were one tensor",
            )
            for use in pair
        ],
        confirmed_by=_confirmed(stale, check),
        remedy=Remedy(
            id="send-tied-head",
            how="Send lm_head.weight with every update although it is tied, or start a new engine.",
        ),
    )


def _layout(versions: Versions) -> list[Cause]:
    """Experts that hold neither version since an update: their values lie in another order."""
    broken = [
        use
        for use in versions.in_state("neither")
        if kind_of(use.module) == "experts" and min(use.error_new, use.error_old) > UNRELATED
    ]
    if not broken or versions.weight_update is None:
        return []
    return [
        Cause(
            id="expert-layout",
            family="moe",
            side="sync",
            confidence=0.8,
            location=summary(sorted({use.module for use in broken})),
            evidence=[
                _counted(versions, "neither", len(broken)),
                *_errors(broken),
            ],
            remedy=NEW_ENGINE,
        )
    ]


def _counted(versions: Versions, state: str, count: int) -> Observation:
    how = f" by {versions.weight_update}" if versions.weight_update else ""
    return Observation(
        observation=f"tensors that are {state} in the engine, of {len(versions.uses)} that the "
        f"update{how} changed",
        value=count,
        expected="0",
    )


def _errors(uses: list[TensorUse]) -> list[Observation]:
    """One line for the same tensor of all layers."""
    return [
        Observation(
            observation=f"{pattern}: smallest error of its module with the new version",
            value=min(use.error_new for use in alike),
            expected=f"at most {max(use.limit for use in alike):.2g}; "
            f"with the old version it is {max(use.error_old for use in alike):.2g}",
        )
        for pattern, alike in by_pattern(uses, lambda use: use.group.name).items()
    ]


def _confirmed(old: list[TensorUse], check: MixtureCheck | None) -> list[Confirmation]:
    found = [
        Confirmation(
            experiment="each module alone on the engine's inputs, reference with the old tensor",
            before=_largest(use.error_new for use in old),
            after=_largest(use.error_old for use in old),
        )
    ]
    if check is not None:
        found.append(
            Confirmation(
                experiment="the whole reference with exactly these tensors old",
                before=check.before,
                after=check.after,
            )
        )
    return found


def _confidence(versions: Versions, check: MixtureCheck | None) -> float:
    unclear = bool(versions.in_state("undecided") or versions.in_state("neither"))
    if check is not None and check.explained:
        return 0.98 if unclear else 0.99
    return 0.7 if unclear else 0.95


def _largest(errors: Iterable[float]) -> float:
    return max(errors)
