"""Findings that fit synthetic captures: edges are measured, the verdict is made up."""

from __future__ import annotations

import math

from scenes import LAYERS

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.measures import measure_edge
from mismatch_lab.measures.routing import delta_by_flip, routing_agreement
from mismatch_lab.measures.stats import Estimate
from mismatch_lab.schema import (
    Cause,
    Confirmation,
    DrawnFindings,
    EstimateRecord,
    ExperimentRecord,
    Findings,
    LayerRouting,
    Localisation,
    Measures,
    ModuleError,
    NoiseFloor,
    Observation,
    Remedy,
    RoutingFindings,
    RuledOut,
    SuppositionRecord,
    Verdict,
)

RULED_OUT = [
    RuledOut(id="sliding-window", because="Tokens before the window's width differ as well."),
    RuledOut(id="attention-softcap", because="The model caps no attention scores."),
    RuledOut(id="rope-scaling", because="The first token differs, where positions do nothing."),
    RuledOut(id="rope-theta", because="The first token differs, where positions do nothing."),
    RuledOut(id="dropout-active", because="Two passes of the trainer are the same: mean |Δ| is 0."),
    RuledOut(id="stale-tensor", because="All fingerprints agree."),
]

MODULES_PER_LAYER = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


def record(estimate: Estimate) -> EstimateRecord:
    """As the findings hold it."""
    return EstimateRecord(
        value=estimate.value,
        n=estimate.n,
        n_dropped=estimate.n_dropped,
        ci95=(estimate.ci95_low, estimate.ci95_high),
    )


def edge(a: Capture, b: Capture) -> Measures:
    """All measures of two captures."""
    pair = align(a, b)
    return {k: record(e) for k, e in measure_edge(pair.logp_a, pair.logp_b, pair.row_ids).items()}


def findings(sides: dict[str, Capture], verdict: Verdict) -> Findings:
    """Findings of these captures; parts may be put in with model_copy."""
    pairs = {
        "decode_train": ("decode", "train"),
        "decode_prefill": ("decode", "prefill"),
        "prefill_train": ("prefill", "train"),
        "infer_ref": ("ref", "decode"),
        "train_ref": ("ref", "train"),
    }
    edges = {
        name: edge(sides[a], sides[b]) for name, (a, b) in pairs.items() if {a, b} <= set(sides)
    }
    if "ref" in sides:
        same = edge(sides["train"], sides["train"])
        edges |= {"train_train": same}
    floor = edges.get("infer_ref", edges["decode_train"])["abs_delta_mean"]
    one = EstimateRecord(value=1.02, n=floor.n, n_dropped=0, ci95=(0.97, 1.08))
    zero = EstimateRecord(value=0.0, n=floor.n, n_dropped=0, ci95=(0.0, 0.0))
    noise = NoiseFloor(
        method="The reference in bfloat16 against the reference in float32.",
        precision=floor, infer_repeat=zero, train_repeat=zero,
        infer_ratio=one, train_ratio=one, edge_ratio=one,
    )  # fmt: skip
    return Findings(
        run="2026-11-23-synthetic",
        edges=edges,
        noise_floor=noise,
        routing=None,
        localisation=None,
        calibration=EstimateRecord(value=0.4, n=floor.n, n_dropped=0, ci95=(-0.2, 1.0)),
        timings_s={"engine start": 6.1, "sampling": 12.9, "trainer": 8.4, "measures": 0.6},
        notes=["The engine's prefix cache was off."],
        verdict=verdict,
    )


def drawn(top_p_nats: float = -40.0) -> DrawnFindings:
    """Tokens that come from what is reported, unless top-p gains."""

    def record(name: str, value: float, nats: float, *noticed: float) -> SuppositionRecord:
        return SuppositionRecord(
            name=name, value=value, between=(value, value + 0.02), gain_nats=nats,
            held_out_nats=nats / 2, noticed_below=noticed[0], noticed_above=noticed[1],
        )  # fmt: skip

    return DrawnFindings(
        n=1264, n_impossible=0, z=0.4, z_limit=4.06, gain_limit_nats=12.0,
        suppositions=[
            record("temperature", 1.01, 0.1, 0.87, 1.16),
            record("top_p", 0.83, top_p_nats, 0.98, math.nan),
            record("presence_penalty", 0.05, 0.2, math.nan, math.nan),
            record("never_drawn", 0.0, 0.0, math.nan, 23.8),
        ],
    )  # fmt: skip


def mismatch_verdict() -> Verdict:
    """The trainer dropped the sinks."""
    cause = Cause(
        id="attention-sinks-dropped", family="attention", side="train", confidence=0.97,
        location="model.layers.0.self_attn",
        evidence=[
            Observation(observation="trainer against fp32 reference, mean |Δ|", value=0.49,
                        expected="at the floor, 0.0211"),
            Observation(observation="isolated error of layers.0.self_attn", value=0.31,
                        expected="under 3 times the floor of 0.002"),
        ],
        confirmed_by=[Confirmation(experiment="sinks put back", before=0.49, after=0.021)],
        remedy=Remedy(id="attention-sinks", how="use an attention kernel that applies sinks"),
        why="The trainer alone leaves the floor, from the first token on; with its sinks turned "
        "off, the reference says what the trainer says.",
    )  # fmt: skip
    return Verdict(
        status="mismatch",
        headline="The trainer's attention drops the sinks: mean |Δ| is 0.441 nats, 15 times what "
        "bfloat16 explains, from model.layers.0.self_attn on.",
        reasons=[
            "decode_train: mean |Δ| is 0.441 nats, 15 times two errors of the floor's size.",
            "infer_ref stays at the floor; train_ref leaves it: the trainer is wrong.",
            "The first module that leaves the floor is model.layers.0.self_attn.",
        ],
        next_command="mismatch-lab diagnose --trainer-plugin fixes.py:with_sinks --depth deep",
        causes=[cause],
        ruled_out=RULED_OUT,
        experiments=[
            ExperimentRecord(name="reference without sinks", side="train", cost_s=4.2,
                             result="0.0190 nats from the trainer"),
            ExperimentRecord(name="stock attention in the trainer", side="train", cost_s=11.8,
                             result="0.0210 nats from the engine"),
        ],
    )  # fmt: skip


def tied_verdict() -> Verdict:
    """A temperature or a scale: at one temperature nobody can say which."""
    decides = "sample at temperature 1: a temperature disappears, a scale stays"
    causes = [
        Cause(
            id=id, family="semantics", side="infer", confidence=0.5, location=None,
            evidence=[Observation(observation="the scalar that fits every token", value=1.43,
                                  expected="1")],
            remedy=Remedy(id=remedy, how=f"set the {remedy}"), decides=decides,
        )
        for id, remedy in (("raw-logprobs-temperature", "processed-logprobs"),
                           ("logit-scale", "logit-scale"))
    ]  # fmt: skip
    return Verdict(
        status="mismatch",
        headline="The engine's log-probs are another scale's: mean |Δ| is 0.441 nats.",
        reasons=["One scalar, 1.43, maps the trainer's distribution onto the engine's."],
        next_command="mismatch-lab diagnose --temperature 1",
        causes=causes,
    )


def localisation(first: str | None, extra: str = "model.norm") -> Localisation:
    """One module leaves the floor, if `first` names it."""
    names = [f"model.layers.{i}.{part}" for i in range(LAYERS) for part in MODULES_PER_LAYER]
    if first is not None and first not in names:
        names.insert(1, first)
    names.append(extra + " ")
    at = names.index(first) if first else len(names)
    modules = [
        ModuleError(
            name=name, kind="attention" if "attn" in name else "other",
            cumulative=0.004 * 1.04**i if i < at else 0.3 * 1.03**i,
            isolated=0.3 if i == at else 0.002, infer_error=0.002,
            train_error=0.3 if i == at else 0.002, floor=0.004, diverges=i == at, n=256,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    return Localisation(
        depth="deep",
        method="Relative Frobenius error of each module's output, on 256 positions.",
        first_divergent_module=first,
        side="train" if first else None,
        per_module=modules,
    )


def routing(sides: dict[str, Capture]) -> RoutingFindings:
    """Measured routing agreement of prefill and trainer."""
    prefill, train = sides["prefill"], sides["train"]
    assert prefill.router_topk is not None
    assert train.router_topk is not None
    ids = train.rows.row_ids()
    agreement = routing_agreement(prefill.router_topk, train.router_topk, ids)
    pair = align(prefill, train)
    inputs = pair.flat - 1
    flips = delta_by_flip(
        pair.logp_b - pair.logp_a,
        agreement.flipped[inputs],
        agreement.recorded[inputs],
        pair.row_ids,
    )
    return RoutingFindings(
        edge="prefill_train",
        top1_agreement=record(agreement.top1_agreement),
        set_overlap=record(agreement.set_overlap),
        flipped_token_share=record(agreement.flipped_token_share),
        abs_delta_flipped=record(flips.flipped_abs_delta_mean),
        abs_delta_unflipped=record(flips.unflipped_abs_delta_mean),
        per_layer=[
            LayerRouting(layer=i, top1_agreement=record(top1), set_overlap=record(overlap))
            for i, (top1, overlap) in enumerate(
                zip(
                    agreement.top1_agreement_per_layer,
                    agreement.set_overlap_per_layer,
                    strict=True,
                )
            )
        ],
    )
