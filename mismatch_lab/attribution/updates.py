"""Causes that an update of the engine's weights leaves behind: from tensors and caches to names.

Sides: what is wrong only since an update, or is the checkpoint of before it, is `sync`. No model
code is wrong then, a new engine on the same checkpoint is right, and it is the delivery that has to
be mended, whichever program does it. What outlives the update inside the engine (cached keys and
values, captured graphs) is `infer`: the weights arrived, and the engine has to drop what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mismatch_lab.attribution.candidates import build_cause
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.kept_state import DecodeRows, cache_causes, decode_rows
from mismatch_lab.attribution.simulate import OutOfTimeError, Simulator
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HEAD, kind_of
from mismatch_lab.checkpoints.tensor_patterns import by_pattern, only_projections, summary
from mismatch_lab.findings.versions import EMBEDDING_TENSOR, TensorUse, Versions, measure_versions
from mismatch_lab.schema import (
    Alteration,
    Cause,
    Confirmation,
    Localisation,
    Manifest,
    Observation,
    RunSpec,
)

Score = Callable[[tuple[Alteration, ...]], Capture | None]
"""The altered reference on the run's rows; None where it cannot be altered so."""


@dataclass(frozen=True)
class MixtureCheck:
    """The engine's re-scoring against the reference with exactly the stale tensors old."""

    before: float
    """Mean |delta| against the reference with the new weights, in nats."""
    after: float
    """The same with the mixture of `stale_weights`."""
    floor: float = 0.0
    """What precision alone does, in nats."""

    @property
    def explained(self) -> bool:
        """Whether the mixture leaves nothing of the error but precision."""
        return self.after <= max(
            THRESHOLDS.mixture_share * self.before, THRESHOLDS.mixture_floors * self.floor
        )


def stale_weights(versions: Versions, folder: str) -> tuple[Alteration, ...]:
    """What makes the reference hold the mixture of old and new that the engine was found to hold.

    Empty where nothing is old, or where only the embedding of a tied pair is (which no alteration
    can do: the head would change with it).

    Args:
        versions: what was found.
        folder: the checkpoint from before the update.
    """
    old = versions.in_state("old")
    head = any(use.module == HEAD and tied(use) for use in old)
    embedding = any(use.module != HEAD and tied(use) for use in old)
    two_uses = sum(tied(use) for use in versions.uses) == 2
    if not old or (two_uses and embedding and not head):
        return ()
    names = [name for use in old if not tied(use) for name in use.group.tensors]
    if embedding:
        names.append(EMBEDDING_TENSOR)
    elif head:
        names.append("lm_head.weight")
    return (Alteration(name="weights_from", value=folder, tensors=tuple(names)),)


def check_mixture(
    versions: Versions,
    folder: str,
    engine: Capture,
    ref: Capture,
    score: Score,
    floor: float = 0.0,
) -> MixtureCheck | None:
    """Run the mixture and compare it with the engine; None where there is none to run.

    Args:
        versions: what was found.
        folder: the checkpoint from before the update.
        engine: its re-scoring.
        ref: the reference with the new weights.
        score: the altered reference.
        floor: what precision alone does, in nats.
    """
    alterations = stale_weights(versions, folder)
    mixed = score(alterations) if alterations else None
    if mixed is None:
        return None
    return MixtureCheck(_mean_delta(engine, ref), _mean_delta(engine, mixed), floor)


def tied(use: TensorUse) -> bool:
    """Whether the tensor is the embedding, which may be the head too."""
    return use.group.name == EMBEDDING_TENSOR


def _mean_delta(engine: Capture, other: Capture) -> float:
    """Mean |delta| in nats over the sampled tokens of the rows that both hold."""
    shared = min(engine.rows.n_tokens, other.rows.n_tokens)
    sampled = engine.rows.sampled[:shared]
    delta = engine.logp[:shared].astype(np.float64) - other.logp[:shared]
    return float(np.abs(delta[sampled]).mean())


NEW_ENGINE = (
    "Start a new engine on the newest checkpoint, or send the tensors named here by a path that "
    "reaches them; compare log-probs after every update."
)


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
    return build_cause(
        cause,
        "sync",
        _confidence(versions, check),
        "",
        evidence=[_counted(versions, "old", len(old)), *_errors(old)],
        confirmed_by=_confirmed(old, check),
        location=None if cause == "stale-weights" else summary(names),
        how=NEW_ENGINE,
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
    return build_cause(
        "untied-head",
        "sync" if versions.weight_update else "infer",
        _confidence(versions, check),
        "",
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
        location=stale[0].module,
        how="Send lm_head.weight with every update although it is tied, or start a new engine.",
    )


def _layout(versions: Versions) -> list[Cause]:
    """Experts that hold neither version since an update: their values lie in another order."""
    broken = [
        use
        for use in versions.in_state("neither")
        if kind_of(use.module) == "experts"
        and min(use.error_new, use.error_old) > THRESHOLDS.unrelated_error
    ]
    if not broken or versions.weight_update is None:
        return []
    return [
        build_cause(
            "expert-layout",
            "sync",
            CONFIDENCE.experts_in_neither,
            "",
            evidence=[_counted(versions, "neither", len(broken)), *_errors(broken)],
            location=summary(sorted({use.module for use in broken})),
            how=NEW_ENGINE,
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
        return CONFIDENCE.old_tensors_mixed_unclear if unclear else CONFIDENCE.old_tensors_mixed
    return CONFIDENCE.old_tensors_unclear if unclear else CONFIDENCE.old_tensors


def _largest(errors: Iterable[float]) -> float:
    return max(errors)


def old_tensors(
    run: RunSpec,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    simulator: Simulator,
    floor_nats: float,
) -> tuple[list[Cause], Explanation]:
    """Causes in tensors that the engine has from before its last update, and what simulates them.

    Both empty without `--weights-before`, or at a depth that records no modules.
    """
    before = run.infer.weights_before
    versions = measure_versions(run, captures, localisation)
    if before is None or versions is None:
        return [], ()
    try:
        check = check_mixture(
            versions, before, captures["prefill"], captures["ref"], simulator.score, floor_nats
        )
    except OutOfTimeError:
        check = None
    causes = version_causes(versions, check)
    alterations = stale_weights(versions, before)
    if not causes or not alterations:
        return causes, ()
    label = f"{len(alterations[0].tensors or ())} tensors as before the update"
    return causes, (Hypothesis(causes[0].id, label, model=alterations),)


def outlived(captures: Mapping[str, Capture], manifest: Manifest, limit_nats: float) -> list[Cause]:
    """Caches or graphs that hold what was computed before the update."""
    rows = decode_rows(
        captures["decode"], captures["prefill"], captures["train"], manifest, limit_nats
    )
    return version_causes(None, None, rows)
