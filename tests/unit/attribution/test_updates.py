"""From which tensors are old to the name of the cause; numbers are carried over, not recomputed."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from mismatch_lab.attribution.kept_state import DecodeRows
from mismatch_lab.attribution.updates import (
    MixtureCheck,
    check_mixture,
    stale_weights,
    version_causes,
)
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.checkpoints.version_groups import group_tensors
from mismatch_lab.findings.tensor_changes import Change
from mismatch_lab.findings.versions import State, TensorUse, Versions
from mismatch_lab.schema import Alteration, Cause, WeightUpdate

Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
EXPERT = "model.layers.0.mlp.experts.down_proj"


def use(tensor: str, state: State, rank: int | None = None, module: str | None = None) -> TensorUse:
    """Errors are 0.3 with the wrong version and 1e-7 with the right one, 1.4 for neither."""
    (group,) = group_tensors([tensor], [tensor])
    errors = {"new": (1e-7, 0.3), "old": (0.3, 1e-7), "neither": (1.4, 1.4)}.get(state, (nan, nan))
    return TensorUse(group, module or group.module, state, *errors, 1e-6, Change(0.1, rank))


def versions(*uses: TensorUse, update: WeightUpdate | None = "reload_weights") -> Versions:
    return Versions("before", update, uses)


def only(causes: list[Cause]) -> Cause:
    (cause,) = causes
    return cause


def test_all_new_is_no_cause() -> None:
    assert version_causes(versions(use(Q, "new"), use(NORM, "new"))) == []
    assert version_causes(None) == []


def test_some_old_tensors_are_stale_and_located() -> None:
    found = versions(use(Q, "old"), use(K, "old"), use(NORM, "new"))
    cause = only(version_causes(found))
    assert (cause.id, cause.side) == ("stale-tensor", "sync")
    assert cause.location == "model.layers.0-1.self_attn.q_proj.weight"
    assert cause.evidence[0].value == 2
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.3, 1e-7)]


def test_the_mixture_on_the_whole_reference_confirms() -> None:
    found = versions(use(Q, "old"), use(NORM, "new"))
    sure = only(version_causes(found, MixtureCheck(before=0.5, after=2e-6)))
    assert [(c.before, c.after) for c in sure.confirmed_by][1] == (0.5, 2e-6)
    unsure = only(version_causes(found, MixtureCheck(before=0.5, after=0.4)))
    assert unsure.confidence < sure.confidence


def test_everything_old_is_stale_weights() -> None:
    cause = only(version_causes(versions(use(Q, "old"), use(NORM, "old"))))
    assert (cause.id, cause.location) == ("stale-weights", None)


@pytest.mark.parametrize("others", ["new", None])
def test_exactly_what_changed_by_a_low_rank_is_an_adapter(others: State | None) -> None:
    adapted = (use(Q, "old", 8), use(K, "old", 4))
    rest = (use(NORM, others),) if others else ()
    cause = only(version_causes(versions(*adapted, *rest)))
    assert cause.id == "adapter-not-delivered"
    assert cause.evidence[0].value == 8


def test_old_tensors_beside_an_adapters_are_no_adapter() -> None:
    partly = versions(use(Q, "old", 8), use(K, "new", 8), use(NORM, "new"))
    assert only(version_causes(partly)).id == "stale-tensor"
    more = versions(use(Q, "old", 8), use(K, "old"), use(NORM, "new"))
    assert only(version_causes(more)).id == "stale-tensor"


@pytest.mark.parametrize(("embedding", "head"), [("new", "old"), ("old", "new")])
def test_a_tied_pair_in_two_versions_is_an_untied_head(embedding: State, head: State) -> None:
    pair = (use(EMBEDDING, embedding), use(EMBEDDING, head, module="lm_head"))
    cause = only(version_causes(versions(*pair, use(Q, "new"))))
    assert cause.id == "untied-head"
    assert cause.location == ("lm_head" if head == "old" else "model.embed_tokens")
    both = version_causes(versions(*pair, use(Q, "old"), use(NORM, "new")))
    assert {found.id: found.location for found in both}["stale-tensor"] == Q


def test_experts_in_neither_version_since_an_update_lie_in_another_order() -> None:
    cause = only(version_causes(versions(use(EXPERT, "neither"), use(Q, "new"))))
    assert (cause.id, cause.location) == ("expert-layout", "model.layers.0.mlp.experts")
    # Without an update it is some defect of the experts, and none of versions.
    assert version_causes(versions(use(EXPERT, "neither"), use(Q, "new"), update=None)) == []
    assert version_causes(versions(use(Q, "neither"), use(NORM, "new"))) == []


def test_the_mixture_names_the_stale_tensors() -> None:
    found = versions(use(Q, "old"), use(NORM, "new"), use(EXPERT, "neither"))
    (alteration,) = stale_weights(found, "folder")
    assert (alteration.name, alteration.value) == ("weights_from", "folder")
    assert alteration.tensors == (Q,)
    assert stale_weights(versions(use(Q, "new")), "folder") == ()


def test_the_mixture_of_a_tied_pair() -> None:
    def tensors(embedding: State, head: State) -> list[str]:
        pair = versions(use(EMBEDDING, embedding), use(EMBEDDING, head, module="lm_head"))
        return [name for a in stale_weights(pair, "folder") for name in a.tensors or ()]

    assert tensors("old", "old") == [EMBEDDING]
    assert tensors("new", "old") == ["lm_head.weight"]
    assert tensors("old", "new") == [], "no alteration leaves the head alone"


def scored(*logp: float) -> Capture:
    """One row: a prompt token, then sampled ones with these log-probs."""
    ids = [list(range(1 + len(logp)))]
    rows = Rows.build(ids, [1], [[False] + [True] * len(logp)])
    return Capture(rows, np.array([nan, *logp], np.float32))


def test_the_mixture_is_run_and_compared_with_the_engine() -> None:
    asked: list[tuple[Alteration, ...]] = []

    def score(alterations: tuple[Alteration, ...]) -> Capture | None:
        asked.append(alterations)
        return scored(-1.0, -2.5)

    found = versions(use(Q, "old"), use(NORM, "new"))
    engine, ref = scored(-1.0, -2.0), scored(-2.0, -4.0)
    # Against the new weights (1 + 2) / 2, against the mixture (0 + 0.5) / 2.
    assert check_mixture(found, "folder", engine, ref, score) == MixtureCheck(1.5, 0.25)
    assert asked == [stale_weights(found, "folder")]
    assert check_mixture(versions(use(Q, "new")), "folder", engine, ref, score) is None
    assert check_mixture(found, "folder", engine, ref, lambda _: None) is None


def test_what_precision_does_is_no_error_that_is_left() -> None:
    # In bfloat16 a tenth of the error stays, which is 1.5 times the floor.
    assert not MixtureCheck(0.03, 0.003).explained
    assert MixtureCheck(0.03, 0.003, floor=0.002).explained
    assert not MixtureCheck(0.03, 0.005, floor=0.002).explained


def decoded(
    cached: float, uncached: float, prefix_caching: bool = True, graphs: bool = False
) -> DecodeRows:
    return DecodeRows(cached, uncached, 3, 2, 0.2, 0.01, prefix_caching, graphs, limit=0.02)


def test_only_rows_with_a_cached_prefix_differ_from_their_re_scoring() -> None:
    cause = only(version_causes(None, decode=decoded(0.2, 0.001)))
    assert (cause.id, cause.family, cause.side) == ("stale-prefix-cache", "cache", "infer")
    assert [seen.value for seen in cause.evidence] == [0.2, 0.001]
    assert [(c.before, c.after) for c in cause.confirmed_by] == [(0.2, 0.01)]


@pytest.mark.parametrize(
    "rows",
    [
        decoded(0.01, 0.001), decoded(0.2, 0.001, prefix_caching=False), decoded(0.2, 0.2),
        decoded(nan, 0.001), decoded(0.001, 0.2),
    ],
)  # fmt: skip
def test_what_is_no_stale_prefix_cache(rows: DecodeRows) -> None:
    assert version_causes(None, decode=rows) == []


def test_all_rows_differ_where_graphs_are_replayed() -> None:
    assert only(version_causes(None, decode=decoded(0.2, 0.2, graphs=True))).id == "stale-graph"
    assert only(version_causes(None, decode=decoded(nan, 0.2, False, True))).id == "stale-graph"
