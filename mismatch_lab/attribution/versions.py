"""Causes that an update of the engine's weights leaves behind: from tensors and caches to names.

Sides: what is wrong only since an update, or is the checkpoint of before it, is `sync`. No model
code is wrong then, a new engine on the same checkpoint is right, and it is the delivery that has to
be mended, whichever program does it. What outlives the update inside the engine (cached keys and
values, captured graphs) is `infer`: the weights arrived, and the engine has to drop what it keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mismatch_lab.attribution.decode_rows import DecodeRows
from mismatch_lab.findings.modules import HEAD, kind_of
from mismatch_lab.findings.versions import EMBEDDING_TENSOR, TensorUse, Versions
from mismatch_lab.schema import Alteration, Cause, Confirmation, Observation, Remedy
from mismatch_lab.tensor_patterns import by_pattern, summary

NEW_ENGINE = Remedy(
    id="new-engine",
    how="Start a new engine on the newest checkpoint, or send the tensors named here by a path that "
    "reaches them; compare log-probs after every update.",
)
DROP_CACHE = Remedy(
    id="reset-prefix-cache", how="Reset the prefix cache after every weight update."
)
RECAPTURE = Remedy(
    id="recapture-graphs",
    how="Copy new weights into the tensors that the graphs captured, or capture the graphs anew.",
)

UNRELATED = 0.5
"""Relative error from which on a module's output has little to do with the right one (two unrelated
outputs of one size are 1.4 apart)."""

EXPLAINED = 0.05
"""The mixture of old and new explains the engine when at most this share of the error is left."""


@dataclass(frozen=True)
class MixtureCheck:
    """The engine's re-scoring against the reference with exactly the stale tensors old."""

    before: float
    """Mean |delta| against the reference with the new weights, in nats."""
    after: float
    """The same with the mixture of `stale_weights`."""


def stale_weights(versions: Versions, folder: str) -> tuple[Alteration, ...]:
    """What makes the reference hold the mixture of old and new that the engine was found to hold.

    Empty where nothing is old, or where only the embedding of a tied pair is (which no alteration
    can do: the head would change with it).

    Args:
        versions: what was found.
        folder: the checkpoint from before the update.
    """
    old = versions.in_state("old")
    head = any(use.module == HEAD and _tied(use) for use in old)
    embedding = any(use.module != HEAD and _tied(use) for use in old)
    two_uses = sum(_tied(use) for use in versions.uses) == 2
    if not old or (two_uses and embedding and not head):
        return ()
    names = [name for use in old if not _tied(use) for name in use.group.tensors]
    if embedding:
        names.append(EMBEDDING_TENSOR)
    elif head:
        names.append("lm_head.weight")
    return (Alteration(name="weights_from", value=folder, tensors=tuple(names)),)


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
    causes = [] if decode is None else _cache_causes(decode)
    if versions is not None:
        causes += _weight_causes(versions, check)
    return sorted(causes, key=lambda cause: -cause.confidence)


def _weight_causes(versions: Versions, check: MixtureCheck | None) -> list[Cause]:
    old = versions.in_state("old")
    low_rank = [use for use in versions.uses if use.change.rank is not None]
    if old and {u.group.name for u in old} == {u.group.name for u in low_rank}:
        return [_adapter(old, versions, check)]
    if old and not versions.in_state("new"):
        return [_stale("stale-weights", old, versions, check)]
    causes = []
    pair = [use for use in versions.uses if _tied(use)]
    states = {use.state for use in pair}
    if states == {"new", "old"}:
        causes.append(_untied(pair, versions, check))
        old = [use for use in old if not _tied(use)]
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
    ranks = [use.change.rank or 0 for use in old]
    rank = Observation(
        observation="largest rank of the change of a tensor that stayed old",
        value=max(ranks),
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


def _cache_causes(rows: DecodeRows) -> list[Cause]:
    """Sampling that differs from re-scoring since an update: where, decides between the two."""
    cached, uncached = rows.cached, rows.uncached
    wrong_cached = cached > rows.limit
    wrong_uncached = uncached > rows.limit
    causes = []
    if rows.prefix_caching and wrong_cached and not wrong_uncached:
        causes.append(_decode_cause("stale-prefix-cache", "cache", rows, DROP_CACHE, 0.95))
    elif rows.graphs and wrong_uncached:
        causes.append(_decode_cause("stale-graph", "cache", rows, RECAPTURE, 0.8))
    return causes


def _decode_cause(
    cause: str, family: str, rows: DecodeRows, remedy: Remedy, confidence: float
) -> Cause:
    seen = (
        (f"{rows.n_cached} rows with a cached prefix", rows.cached),
        (f"{rows.n_uncached} rows without", rows.uncached),
    )
    return Cause.model_validate(
        {
            "id": cause,
            "family": family,
            "side": "infer",
            "confidence": confidence,
            "location": None,
            "evidence": [
                Observation(
                    observation=f"sampling against re-scoring after the update, {which}",
                    value=value,
                    expected=f"at most {rows.limit:.2g} nats",
                )
                for which, value in seen
            ],
            "confirmed_by": [
                Confirmation(
                    experiment="the same tokens scored anew, without what the engine keeps",
                    before=rows.decode_train,
                    after=rows.prefill_train,
                )
            ],
            "remedy": remedy,
        }
    )


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
            experiment="each module alone, on the engine's inputs: the reference with the old tensor",
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
    if check is not None and check.after <= EXPLAINED * check.before:
        return 0.98 if unclear else 0.99
    return 0.7 if unclear else 0.95


def _tied(use: TensorUse) -> bool:
    return use.group.name == EMBEDDING_TENSOR


def _largest(errors: Iterable[float]) -> float:
    return max(errors)
