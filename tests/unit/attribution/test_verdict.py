"""The status, from evidence written down by hand; no wording but names and numbers is asserted."""

from __future__ import annotations

from math import nan

import pytest

from mismatch_lab.findings.verdict import Decision, Evidence, beside_averages, decide
from mismatch_lab.schema import (
    EstimateRecord,
    Limits,
    Localisation,
    Measures,
    ModuleError,
    NoiseFloor,
    OddToken,
    OddTokens,
    RoutingFindings,
    TypicalRatios,
    Verdict,
    WorstRun,
)

LIMITS = Limits(
    match_abs_delta_nats=1e-4,
    floor_ratio=3.0,
    module_floor_ratio=3.0,
    min_tokens=256,
    min_rows=4,
)


def number(
    value: float, low: float, high: float, n: int = 1000, dropped: int = 0
) -> EstimateRecord:
    return EstimateRecord(value=value, n=n, n_dropped=dropped, ci95=(low, high))


def around(value: float, spread: float = 0.1, n: int = 1000) -> EstimateRecord:
    """With an interval of `spread` on either side, relative."""
    return number(value, value * (1 - spread), value * (1 + spread), n)


def edge(size: EstimateRecord, mean: EstimateRecord | None = None) -> dict[str, Measures]:
    centred = mean or number(0.0, -0.05 * size.value, 0.05 * size.value)
    return {"decode_train": {"abs_delta_mean": size, "mean_delta": centred}}


def floor(
    infer: EstimateRecord | None = None,
    train: EstimateRecord | None = None,
    between: EstimateRecord | None = None,
) -> NoiseFloor:
    """A floor of 0.02 nats, with ratios of 1 unless given."""
    return NoiseFloor(
        method="", precision=around(0.02), infer_repeat=around(0.0), train_repeat=around(0.0),
        infer_ratio=infer or around(1.0), train_ratio=train or around(1.0),
        edge_ratio=between or around(1.0),
    )  # fmt: skip


def module(name: str, infer: float, train: float, diverges: bool) -> ModuleError:
    return ModuleError(
        name=name, kind="projection", cumulative=0.5, isolated=max(infer, train),
        infer_error=infer, train_error=train, floor=0.002, diverges=diverges, n=100,
    )  # fmt: skip


def localised(side: str | None) -> Localisation:
    """v_proj of layer 1 is wrong by 0.31 on `side`, or nothing is."""
    name = "model.layers.1.self_attn.v_proj"
    errors = {"infer": (0.31, 0.002), "train": (0.002, 0.31), None: (0.002, 0.002)}[side]
    return Localisation.model_validate(
        {
            "depth": "standard",
            "method": "",
            "first_divergent_module": name if side else None,
            "side": side,
            "per_module": [
                module("model.embed_tokens", 0.0, 0.0, False),
                module(name, *errors, side is not None),
            ],
        }
    )


def verdict(
    edges: dict[str, Measures],
    noise: NoiseFloor | None = None,
    where: Localisation | None = None,
    routing: RoutingFindings | None = None,
    rows: int = 32,
) -> Decision:
    return decide(Evidence(edges, noise, where, routing, rows), LIMITS)


def says(decision: Decision) -> str:
    return " ".join([decision.headline, *decision.reasons])


# ---- match -------------------------------------------------------------------------------------


def test_match_is_an_interval_below_the_limit() -> None:
    found = verdict(edge(around(3e-6)), floor())
    assert found.status == "match"
    assert "3e-06" in found.headline
    assert "1000 tokens" in found.headline
    assert found.causes == []


def test_a_match_needs_no_reference() -> None:
    assert verdict(edge(around(3e-6))).status == "match"


def test_an_interval_that_reaches_over_the_limit_is_no_match() -> None:
    over = number(8e-5, 5e-5, 1.2e-4)
    assert verdict(edge(over), floor()).status == "numerics"
    assert verdict(edge(over)).status == "underpowered"


def test_below_the_match_limit_no_ratio_and_no_bias_is_a_mismatch() -> None:
    # Float32 against a float64 floor: 50 times almost nothing is still nothing.
    one_sided = edge(around(3e-6), mean=around(3e-6))
    assert verdict(one_sided, floor(infer=around(50.0), between=around(40.0))).status == "match"


# ---- numerics ----------------------------------------------------------------------------------


def test_numerics_is_a_difference_within_the_floor() -> None:
    found = verdict(edge(around(0.03)), floor(infer=around(1.1), between=around(1.2)))
    assert found.status == "numerics"
    assert "0.03" in found.headline
    assert "1.2 times" in found.headline
    assert [cause.id for cause in found.causes] == ["numerics-floor"]
    assert found.causes[0].side == "neither"
    assert found.causes[0].evidence[0].value == 1.2
    for figure in ("1.1 [0.99, 1.21]", "1.2 [1.08, 1.32]", "0.02"):
        assert figure in says(found)


def test_numerics_tells_what_flipped_experts_carry() -> None:
    one = around(0.9)
    routing = RoutingFindings(
        edge="prefill_train", top1_agreement=one, set_overlap=one,
        flipped_token_share=around(0.125), abs_delta_flipped=around(0.21),
        abs_delta_unflipped=around(0.017), per_layer=[],
    )  # fmt: skip
    found = verdict(edge(around(0.03)), floor(), routing=routing)
    assert found.status == "numerics"
    for figure in ("12.5%", "0.21", "0.017"):
        assert figure in says(found)


def test_a_healthy_localisation_is_numerics() -> None:
    assert verdict(edge(around(0.03)), floor(), localised(None)).status == "numerics"


# ---- mismatch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["infer", "train", "between"])
def test_an_error_clearly_beyond_the_floor_is_a_mismatch(which: str) -> None:
    # One side 4 floors off is an edge of 4 / sqrt(2) = 2.8 of its floors; intervals from 3.6.
    ratios = {"between": around(2.8)} | {which: around(4.0)}
    found = verdict(edge(around(0.4)), floor(**ratios))
    assert found.status == "mismatch"
    assert "0.4" in found.headline
    assert "4 [3.6, 4.4]" in says(found)
    assert found.causes == []


def test_a_mismatch_gives_the_edge_as_a_multiple_of_the_floor() -> None:
    found = verdict(edge(around(0.4)), floor(train=around(18.0), between=around(14.2)))
    assert found.status == "mismatch"
    assert "14" in found.headline


def test_a_one_sided_difference_is_a_mismatch_within_the_floor_too() -> None:
    # Mean delta is 80 % of mean |delta|, 0.024 ± 0.002 (one standard error is 0.001).
    one_sided = edge(around(0.03), mean=number(0.024, 0.022, 0.026))
    found = verdict(one_sided, floor())
    assert found.status == "mismatch"
    assert "80%" in says(found)
    assert "0.024 [0.022, 0.026]" in says(found)


@pytest.mark.parametrize(
    "mean",
    [
        number(0.012, 0.011, 0.013),  # 40 % of mean |delta|: less than half
        number(0.024, 0.006, 0.042),  # 80 %, but 2.6 standard errors from 0
        number(0.024, nan, nan),
    ],
    ids=["small", "uncertain", "without-interval"],
)
def test_a_little_bias_is_not_one_sided(mean: EstimateRecord) -> None:
    assert verdict(edge(around(0.03), mean), floor()).status == "numerics"


@pytest.mark.parametrize(("side", "named"), [("infer", "engine"), ("train", "trainer")])
def test_a_module_that_leaves_its_floor_is_a_mismatch(side: str, named: str) -> None:
    found = verdict(edge(around(0.03)), floor(), localised(side))
    assert found.status == "mismatch"
    assert "model.layers.1.self_attn.v_proj" in found.headline
    assert named in found.headline
    for figure in ("0.31", "0.002"):
        assert figure in says(found)


def test_a_module_whose_error_reaches_nothing_is_no_mismatch() -> None:
    """Every edge a match, within the floor, equal weights and choices: two names for two things."""
    found = verdict(edge(around(5e-7)), floor(), localised("infer"))
    assert found.status == "match"
    assert "v_proj" not in says(found)


@pytest.mark.parametrize(
    ("more", "noise", "weights"),
    [
        ({"infer_ref": edge(around(3e-4))["decode_train"]}, floor(), ()),
        ({}, floor(infer=number(40.0, 35.0, 45.0)), ()),
        ({}, floor(), ("model.layers.1.self_attn.v_proj.weight",)),
    ],
    ids=["another edge", "beyond the floor", "weights"],
)
def test_a_module_whose_error_reaches_something_is_a_mismatch(
    more: dict[str, Measures], noise: NoiseFloor, weights: tuple[str, ...]
) -> None:
    edges = edge(around(5e-7)) | more
    evidence = Evidence(edges, noise, localised("infer"), None, 32, weights)
    assert decide(evidence, LIMITS).status == "mismatch"


def test_a_run_of_positions_is_told_with_its_length() -> None:
    where = localised("train")
    run = WorstRun(side="train", start=146, stop=154, error=0.9, floor=0.002, diverges=True)
    wrong = where.per_module[1].model_copy(update={"train_error": 0.002, "worst_run": run})
    found = verdict(edge(around(0.03)), floor(), where.model_copy(update={"per_module": [wrong]}))
    assert found.status == "mismatch"
    assert "8 positions on end" in says(found)
    assert "0.9" in says(found)


def test_without_a_reference_a_difference_above_the_limit_is_a_mismatch() -> None:
    found = verdict(edge(number(0.01, 0.008, 0.012)))
    assert found.status == "mismatch"
    assert "0.0001" in says(found)


def test_a_large_difference_on_few_tokens_is_still_a_mismatch() -> None:
    assert verdict(edge(around(2.0, n=40)), floor(between=around(30.0))).status == "mismatch"


def test_an_error_that_both_sides_share_is_no_mismatch() -> None:
    # Both are 10 floors from the reference, and 1 from each other: the reference is the odd one.
    both = floor(infer=around(10.0), train=around(10.0), between=around(1.0))
    assert verdict(edge(around(0.02)), both).status == "numerics"
    # Independent errors of 10 floors each are 10 apart (in units of two errors).
    own = floor(infer=around(10.0), train=around(10.0), between=around(10.0))
    assert verdict(edge(around(0.2)), own).status == "mismatch"


def test_different_weights_are_a_mismatch_where_they_show() -> None:
    stale = ("model.layers.1.mlp.down_proj.weight",)
    for size, status in ((0.02, "mismatch"), (1e-6, "match")):
        found = decide(Evidence(edge(around(size)), floor(), None, None, 8, stale), LIMITS)
        assert found.status == status
    found = decide(Evidence(edge(around(0.02)), floor(), None, None, 8, stale), LIMITS)
    assert stale[0] in " ".join(found.reasons)


@pytest.mark.parametrize("name", ["decode_prefill", "train_train", "train_train.train_mode"])
def test_a_side_that_disagrees_with_itself(name: str) -> None:
    # The floor is at most 0.022; two roundings of it are 0.0311, and three times that is 0.0933.
    def status(low: float) -> str:
        edges = edge(around(0.02)) | {name: edge(number(0.1, low, 0.12))["decode_train"]}
        return verdict(edges, floor()).status

    assert status(0.094) == "mismatch"
    assert status(0.093) == "numerics"


# ---- underpowered ------------------------------------------------------------------------------


def test_too_few_tokens() -> None:
    found = verdict(edge(around(3e-6, n=255)), floor())
    assert found.status == "underpowered"
    assert "255" in found.headline
    assert "256" in found.headline
    assert verdict(edge(around(3e-6, n=256)), floor()).status == "match"


def test_too_few_rows() -> None:
    found = verdict(edge(around(3e-6)), floor(), rows=3)
    assert found.status == "underpowered"
    assert "3 sequences" in found.headline
    assert verdict(edge(around(3e-6)), floor(), rows=4).status == "match"


NEAR = {"between": around(2.0)}


@pytest.mark.parametrize("which", ["infer", "train", "between"])
def test_an_interval_with_the_limit_inside(which: str) -> None:
    found = verdict(edge(around(0.1)), floor(**NEAR | {which: number(3.4, 2.2, 4.6)}))
    assert found.status == "underpowered"
    assert "3.4 [2.2, 4.6]" in found.headline
    # Below the limit, even if the interval reaches beyond it, is numerics.
    assert (
        verdict(edge(around(0.1)), floor(**NEAR | {which: number(2.2, 1.5, 3.6)})).status
        == "numerics"
    )


def test_without_a_reference_an_interval_around_the_match_limit() -> None:
    assert verdict(edge(number(1e-4, 5e-5, 2e-4))).status == "underpowered"


@pytest.mark.parametrize("part", ["precision", "infer_ratio", "train_ratio", "edge_ratio"])
def test_a_reference_that_gave_no_number_explains_nothing(part: str) -> None:
    nothing = number(nan, nan, nan, n=0, dropped=1000)
    empty = floor().model_copy(update={part: nothing})
    assert verdict(edge(number(0.03, 5e-5, 0.06)), empty).status == "underpowered"


# ---- the typical token -------------------------------------------------------------------------


def typically(**ratios: EstimateRecord) -> NoiseFloor:
    """Means of one floor, and on the typical token 1 unless given."""
    one = {name: around(1.0) for name in ("infer", "train", "decode", "edge")}
    return floor().model_copy(
        update={"decode_ratio": around(1.0), "typical": TypicalRatios(**(one | ratios))}
    )


def test_an_error_on_every_token_is_a_mismatch_whatever_the_mean_says() -> None:
    found = verdict(edge(around(0.03)), typically(train=around(3.5), edge=around(2.6)))
    assert found.status == "mismatch"
    assert (
        "Beyond the noise floor token by token: the trainer's error is typically 3.5 [3.15, 3.85] "
        "times what this precision does to the same token (limit 2)."
    ) in found.reasons


def test_an_error_that_both_sides_share_is_none_on_the_typical_token_either() -> None:
    # Engine and trainer are 3.5 floors from the reference and 0.2 from each other.
    shared = typically(train=around(3.5), infer=around(3.5), decode=around(3.5), edge=around(0.2))
    assert verdict(edge(around(0.03)), shared).status == "numerics"


def test_a_typical_ratio_around_its_limit_is_too_little_data() -> None:
    found = verdict(edge(around(0.03)), typically(train=number(2.1, 1.8, 2.5), edge=around(1.7)))
    assert found.status == "underpowered"
    assert "on the typical token: the limit of 2 lies inside the interval" in found.headline


def test_each_error_is_said_once() -> None:
    # By its mean, if that shows it; the sampling's is the re-scoring's.
    broken = typically(infer=around(9), decode=around(9), edge=around(9)).model_copy(
        update={"infer_ratio": around(5), "decode_ratio": around(5), "edge_ratio": around(4)}
    )
    found = verdict(edge(around(0.2)), broken)
    beyond = [reason for reason in found.reasons if reason.startswith("Beyond")]
    assert [reason.split(" is ")[0] for reason in beyond] == [
        "Beyond the noise floor: the engine's error",
        "Beyond the noise floor: engine against trainer",
    ]
    # A mean that shows sampling alone, and the trainer's typical token.
    sampling = typically(train=around(9), decode=around(9), edge=around(9)).model_copy(
        update={"decode_ratio": around(5), "edge_ratio": around(2.6)}
    )
    found = verdict(edge(around(0.2)), sampling)
    beyond = [reason for reason in found.reasons if reason.startswith("Beyond")]
    assert [reason.split(" is ")[0] for reason in beyond] == [
        "Beyond the noise floor: the engine's error while sampling",
        "Beyond the noise floor token by token: the trainer's error",
    ]


def test_numerics_says_what_the_typical_token_shows() -> None:
    found = verdict(edge(around(0.03)), typically(train=around(1.2)))
    assert found.status == "numerics"
    assert any(
        "Token by token, typically: engine 1 [0.9, 1.1], trainer 1.2" in r for r in found.reasons
    )


def test_below_the_match_limit_no_ratio_counts() -> None:
    assert (
        verdict(edge(around(5e-5)), typically(train=around(50), edge=around(35))).status == "match"
    )


# ---- error -------------------------------------------------------------------------------------


def test_no_data_is_an_error() -> None:
    nothing = number(nan, nan, nan, n=0)
    found = verdict({"decode_train": {"abs_delta_mean": nothing, "mean_delta": nothing}}, floor())
    assert found.status == "error"


def test_an_edge_that_was_not_measured_is_an_error_and_named() -> None:
    found = verdict({})
    assert found.status == "error"
    assert "decode_train" in found.headline


def odd(n: int = 3, of: int = 1000) -> OddTokens:
    token = OddToken(
        row=2, position=5, token_id=17, text="foo", logp_infer=-3.0, logp_train=float("-inf")
    )
    return OddTokens(
        capture="train", side="train", kind="impossible", n=n, of=of, n_token_ids=1, tokens=[token]
    )


def test_single_tokens_without_a_log_prob_are_a_mismatch_however_small_the_rest() -> None:
    size = number(1e-6, 0.9e-6, 1.1e-6, 997, dropped=3)
    evidence = Evidence(edge(size), floor(), None, None, 32, odd=(odd(),))
    found = decide(evidence, LIMITS)
    assert found.status == "mismatch"
    assert "3 of 1000" in found.headline
    assert "row 2, position 5, token 17" in found.headline


def test_a_side_without_any_log_prob_is_an_error() -> None:
    size = number(nan, nan, nan, 0, dropped=1000)
    found = decide(Evidence(edge(size), floor(), None, None, 32, odd=(odd(1000),)), LIMITS)
    assert found.status == "error"
    assert "all 1000 sampled tokens of the trainer" in found.headline


def test_tokens_that_neither_side_has_are_left_out() -> None:
    size = number(1e-6, 0.9e-6, 1.1e-6, 997, dropped=3)
    assert decide(Evidence(edge(size), floor(), None, None, 32), LIMITS).status == "match"


def test_what_no_average_shows_is_a_mismatch_and_nothing_seen_changes_nothing() -> None:
    verdict = Verdict(status="match", headline="Same.", reasons=["small"], next_command="gate")
    assert beside_averages(verdict, "") is verdict
    told = beside_averages(verdict, "12 log-probs are constants.", ["trainer stands alone"])
    assert (told.status, told.headline) == ("mismatch", "Mismatch: 12 log-probs are constants.")
    assert told.reasons == ["12 log-probs are constants.", "trainer stands alone"]
    assert told.next_command == "gate"
