"""The first module that diverges, on hidden states whose errors are written down."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hand_made import NAN, capture
from localised import (
    FLOOR,
    LIMIT_RATIO,
    MODULES,
    POSITIONS,
    Err,
    culprit,
    found,
    module,
    recorded,
    state,
)

from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.localise import UNIT_ROUNDOFF, localise
from mismatch_lab.findings.module_error import module_error
from mismatch_lab.schema import Localisation


def test_healthy_sides_have_no_culprit() -> None:
    assert culprit({}) == (None, None)


def test_a_culprit_in_the_middle_is_named_although_later_ones_diverge_too() -> None:
    wrong = Err(train=0.5)
    late = {"model.layers.0.mlp.experts": wrong, "model.layers.1.self_attn": wrong}
    assert culprit(late) == ("model.layers.0.mlp.experts", "train")


def test_the_errors_are_those_that_were_put_in() -> None:
    given = Err(infer=0.02, train=0.5)
    of = module(recorded({"model.layers.0.mlp": given}), "model.layers.0.mlp")
    # |(0, .02, -.5)| / |(1, 0, .5)| = sqrt(.2504 / 1.25) = 0.44757
    assert of.isolated == pytest.approx(sqrt(0.2504 / 1.25), rel=1e-6)
    assert of.cumulative == pytest.approx(of.isolated)
    assert of.infer_error == pytest.approx(0.02, rel=1e-6)
    assert of.train_error == pytest.approx(0.5, rel=1e-6)
    assert of.floor == pytest.approx(FLOOR, rel=1e-6)
    assert (of.kind, of.diverges, of.n) == ("mlp", True, POSITIONS)


def test_attention_is_named_when_its_projections_are_right() -> None:
    assert culprit({"model.layers.0.self_attn": Err(train=0.3)}) == (
        "model.layers.0.self_attn",
        "train",
    )


def test_a_projection_is_named_before_the_attention_that_holds_it() -> None:
    wrong = Err(infer=0.3)
    both = {"model.layers.0.self_attn": wrong, "model.layers.0.self_attn.o_proj": wrong}
    assert culprit(both) == ("model.layers.0.self_attn.o_proj", "infer")


@pytest.mark.parametrize(
    ("error", "side"),
    [
        (Err(infer=0.3), "infer"),
        (Err(train=0.3), "train"),
        (Err(infer=0.3, train=0.3), "undecided"),
        (Err(infer=0.3, train=0.19), "infer"),  # 0.3 / 0.19 = 1.58, above 1.5
        (Err(infer=0.3, train=0.21), "undecided"),  # 1.43
    ],
)
def test_the_side_is_the_one_with_the_clearly_larger_error(error: Err, side: str) -> None:
    assert culprit({"model.norm": error}) == ("model.norm", side)


def test_a_layer_is_the_culprit_only_where_all_its_parts_are_right() -> None:
    layer, attention = "model.layers.0", "model.layers.0.self_attn"
    assert culprit({layer: Err(train=0.9)}) == (layer, "train")
    both = recorded({layer: Err(train=0.9), attention: Err(infer=0.3)})
    assert not module(both, layer).diverges
    assert culprit({layer: Err(train=0.9), attention: Err(infer=0.3)}) == (attention, "infer")


def test_what_is_infinite_and_should_not_be_is_wrong() -> None:
    expected = np.ones((4, 2), np.float32)
    broken = expected.copy()
    broken[:, 1] = -np.inf
    assert module_error(broken, expected) == (np.inf, 4)
    unrecorded = np.full((4, 2), np.nan, np.float32)
    assert module_error(unrecorded, expected)[1] == 0


def test_what_only_the_inputs_bring_is_not_the_modules_fault() -> None:
    captures = recorded({}, cumulative={"model.layers.1.self_attn": Err(infer=0.01, train=0.5)})
    of = module(captures, "model.layers.1.self_attn")
    assert of.cumulative == pytest.approx(sqrt(0.2501 / 1.25), rel=1e-6)
    assert of.isolated == pytest.approx(sqrt(0.0002 / 1.0001), rel=1e-6)  # both at the floor
    assert not of.diverges


def test_an_embedding_scaled_outside_of_its_module_is_none_of_its_faults() -> None:
    """Gemma's scale is inside the module here and after it there; the first layer gets the same."""
    scaled = {"model.embed_tokens": Err(infer=15.0), "model.layers.0:in": Err()}
    assert culprit(scaled) == (None, None)
    wrong = scaled | {"model.layers.0:in": Err(infer=0.2)}
    assert culprit(wrong) == ("model.embed_tokens", "infer")


def test_the_embedding_is_judged_on_its_own_run() -> None:
    captures = recorded({"model.embed_tokens": Err(train=0.2)})
    for name in ("train_on_infer", "ref_on_infer", "floor_on_infer"):  # a replay skips it
        hidden = {n: a for n, a in captures[name].hidden.items() if n != "model.embed_tokens"}
        captures[name] = replace(captures[name], hidden=hidden)
    result = found(captures)
    assert (result.first_divergent_module, result.side) == ("model.embed_tokens", "train")


def test_the_limit_is_three_floors_of_a_side_and_of_the_pair() -> None:
    # Floor 0.01, limit 0.03: the pair is sqrt(.0289² + .01²) = 0.0306 apart, neither side is.
    assert culprit({"model.norm": Err(infer=0.0289)}) == (None, None)
    assert culprit({"model.norm": Err(infer=0.0311)}) == ("model.norm", "infer")


def test_sides_that_err_alike_do_not_diverge_from_each_other() -> None:
    captures = recorded({})
    for name in ("prefill", "train", "train_on_infer"):  # both 0.4 from the reference
        alike = {"model.norm": state(0.4, 0, 0)}
        captures[name] = replace(captures[name], hidden=captures[name].hidden | alike)
    of = module(captures, "model.norm")
    assert of.infer_error == of.train_error == pytest.approx(0.4, rel=1e-6)
    assert (of.isolated, of.diverges) == (0.0, False)


def test_where_the_floor_is_zero_storing_the_output_is_the_floor() -> None:
    roundoff = UNIT_ROUNDOFF["bfloat16"]
    for times, diverges in ((2.9, False), (3.1, True)):
        error = Err(infer=times * roundoff, train=0.0, floor=0.0)
        of = module(recorded({"model.norm": error}), "model.norm")
        assert of.floor == roundoff
        assert of.diverges is diverges
    # 8, 11 and 24 bits of significand: spacing 2^-7, 2^-10, 2^-23 above 1, and half of it.
    assert UNIT_ROUNDOFF == {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}


def test_positions_that_were_not_replayed_are_left_out() -> None:
    captures = recorded({"model.norm": Err(train=0.4)})
    half = POSITIONS // 2
    for name in ("train_on_infer", "ref_on_infer", "floor_on_infer"):
        hidden = {n: a.copy() for n, a in captures[name].hidden.items()}
        for array in hidden.values():
            array[half:] = NAN
        captures[name] = replace(captures[name], hidden=hidden)
    of = module(captures, "model.norm")
    assert of.train_error == pytest.approx(0.4, rel=1e-6)
    assert of.diverges


def test_a_module_nowhere_replayed_is_not_judged() -> None:
    captures = recorded({"model.norm": Err(train=0.4)})
    missing = {n: a for n, a in captures["ref_on_infer"].hidden.items() if n != "model.norm"}
    captures["ref_on_infer"] = replace(captures["ref_on_infer"], hidden=missing)
    of = module(captures, "model.norm")
    assert np.isnan(of.train_error)
    assert not of.diverges


def test_a_tenth_of_the_positions_may_do_as_they_like() -> None:
    reference, hidden = state(0, 0, 0), state(0, 0.01, 0)
    hidden[:2, 2] = 1e6  # 2 of 20
    error, n = module_error(hidden, reference)
    assert (error, n) == (pytest.approx(0.01, rel=1e-6), 20)
    hidden[2, 2] = 1.0
    # 18 kept: 17 of 0.01 and one of 1.
    assert module_error(hidden, reference)[0] == pytest.approx(sqrt((17e-4 + 1) / 18), rel=1e-5)


def test_inputs_are_no_modules() -> None:
    captures = recorded({})
    for name, one in captures.items():
        extra = {"model.layers.0:in": state(9, 9, 9), "model.norm:in": state(9, 9, 9)}
        captures[name] = replace(one, hidden=one.hidden | extra)
    assert [m.name for m in found(captures).per_module] == list(MODULES)


# ---- Runs of positions -------------------------------------------------------------------------


def long_row(rows: int = 161) -> dict[str, Capture]:
    """One row of `rows` positions; norm and experts at the floor throughout."""
    names = ("model.layers.0.mlp.experts", "model.norm")
    base = replace(capture([-1.0] * rows), probe_positions=np.arange(1, rows + 1))
    healthy = {
        "prefill": [1.0, FLOOR, 0, 0],
        "train": [1.0, 0, FLOOR, 0],
        "floor": [1.0, 0, 0, FLOOR],
        "ref": [1.0, 0, 0, 0],
    }

    def side(which: str) -> Capture:
        array = np.tile(np.array(healthy[which], np.float32), (rows, 1))
        return replace(base, hidden={name: array.copy() for name in names})

    return {name: side(name.removesuffix("_on_infer")) for name in (
        "prefill", "train", "ref", "floor", "train_on_infer", "ref_on_infer", "floor_on_infer"
    )}  # fmt: skip


def test_noise_at_the_last_sixteen_of_161_positions_is_found() -> None:
    captures = long_row()
    for name in ("train", "train_on_infer"):
        captures[name].hidden["model.norm"][-16:, 1] = 0.9  # trimmed: a tenth of 161 is 16
    result = found(captures)
    assert (result.first_divergent_module, result.side) == ("model.norm", "train")
    (norm,) = [m for m in result.per_module if m.name == "model.norm"]
    assert norm.train_error == pytest.approx(FLOOR, rel=1e-6)
    run = norm.worst_run
    assert run is not None
    # Probe positions are 1 to 161, the last 16 begin at 146. Five of eight make the median: 143.
    assert (run.side, run.start, run.stop, run.diverges) == ("train", 143, 151, True)
    assert run.error == pytest.approx(sqrt(0.9**2 + FLOOR**2), rel=1e-5)
    assert run.floor == pytest.approx(FLOOR, rel=1e-6)


def test_scattered_flips_are_no_run() -> None:
    captures = long_row()
    experts = captures["prefill"].hidden["model.layers.0.mlp.experts"]
    experts[::16, 2] = 1.4  # 11 of 161, and three on end: no more than are trimmed
    experts[39:42, 2] = 1.4
    assert found(captures).first_divergent_module is None


def test_no_row_as_long_as_a_run_has_none() -> None:
    captures = long_row(7)
    captures["train_on_infer"].hidden["model.norm"][:] = 0
    result = found(captures)
    assert {m.worst_run for m in result.per_module} == {None}
    assert result.first_divergent_module == "model.norm"


# ---- The head ----------------------------------------------------------------------------------


def with_head(infer: list[float], train: list[float], pad: int = 0) -> dict[str, Capture]:
    """Healthy hidden states; logits of either side, the reference's being (2, 0, -2)."""

    def log_probs(
        logits: list[float], pad: int
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        row = np.array([*logits, *[-50.0] * pad])
        row -= np.log(np.exp(row).sum())
        return np.tile(row.astype(np.float32), (POSITIONS, 1))

    reference = [2.0, 0.0, -2.0]
    logits = {"prefill": infer, "train": train, "train_on_infer": train}
    return {
        name: replace(
            one, probe_logp=log_probs(logits.get(name, reference), pad if name == "prefill" else 0)
        )
        for name, one in recorded({}).items()
    }


def test_the_head_is_judged_by_its_distributions() -> None:
    result = found(with_head([2.0, 0.0, -2.0], [2.2, 0.0, -2.2]))
    assert (result.first_divergent_module, result.side) == ("lm_head", "train")
    assert result.per_module[-1].train_error == pytest.approx(0.1, rel=1e-5)  # logits times 1.1


def test_the_error_of_the_head_is_that_of_its_logits_whatever_their_sum() -> None:
    # The trainer's logits are the reference's plus 7: the same distribution.
    assert found(with_head([2.0, 0.0, -2.0], [9.0, 7.0, 5.0])).first_divergent_module is None


def test_a_padded_vocabulary_is_no_error_of_the_head() -> None:
    same = [2.0, 0.0, -2.0]
    result = found(with_head(same, same, pad=2))
    assert result.per_module[-1].infer_error == pytest.approx(0.0, abs=1e-6)
    assert result.first_divergent_module is None


# ---- Nothing to say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing", ["prefill", "train", "ref", "train_on_infer", "ref_on_infer", "floor_on_infer"]
)
def test_without_a_replay_nothing_is_localised(missing: str) -> None:
    captures = recorded({"model.norm": Err(train=0.4)})
    empty = captures | {missing: replace(captures[missing], hidden={})}
    assert localise(empty, "quick", "bfloat16", LIMIT_RATIO) is None
    del captures[missing]
    assert localise(captures, "quick", "bfloat16", LIMIT_RATIO) is None


@pytest.mark.parametrize("hidden", [None, np.full((3, 2), NAN, np.float32)])
def test_no_data_is_nan_with_n_0(hidden: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    error, n = module_error(hidden, np.ones((3, 2), np.float32))
    assert np.isnan(error)
    assert n == 0


def of_record(errors: dict[str, Err], *without: str, fed: bool = True) -> Localisation | None:
    """Of a record: nobody fed the trainer what the engine was; the sides named are not there."""
    captures = recorded(errors)
    del captures["train_on_infer"]
    for name in ("ref", "floor"):
        captures[f"{name}_on_train"] = captures[f"{name}_on_infer"]
        for on in ("infer", "train"):
            if not fed or {"infer": "prefill", "train": "train"}[on] in without:
                del captures[f"{name}_on_{on}"]
    for name in without:
        captures[name] = replace(captures[name], hidden={})
    return localise(captures, "quick", "bfloat16", LIMIT_RATIO, recorded=True)


EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("fed", [True, False])
@pytest.mark.parametrize(
    ("errors", "without", "first", "side"),
    [
        (Err(train=0.5), (), EXPERTS, "train"),
        (Err(infer=0.5), (), EXPERTS, "infer"),
        (Err(infer=0.5, train=0.5), (), EXPERTS, "undecided"),
        (Err(train=0.5), ("prefill",), EXPERTS, "train"),
        (Err(train=0.5), ("train",), None, None),  # of the engine, which is right
        (Err(infer=0.5), ("train",), EXPERTS, "infer"),
        (Err(), (), None, None),
    ],
)
def test_each_side_of_a_record_is_held_against_the_reference(
    errors: Err, without: tuple[str, ...], first: str | None, side: str | None, fed: bool
) -> None:
    found = of_record({EXPERTS: errors}, *without, fed=fed)
    assert found is not None
    assert (found.first_divergent_module, found.side) == (first, side)
    of_experts = next(m for m in found.per_module if m.name == EXPERTS)
    assert of_experts.n == POSITIONS
    assert np.isnan(of_experts.isolated)
    assert np.isnan(of_experts.infer_error) == ("prefill" in without)
    assert np.isnan(of_experts.train_error) == ("train" in without)


def test_a_record_without_hidden_states_has_no_place() -> None:
    assert of_record({}, "prefill", "train") is None
