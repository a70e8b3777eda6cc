"""Synthetic finished runs, written with the real capture store and the real schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_findings import drawn, findings, localisation, mismatch_verdict, routing, tied_verdict
from scenes import HOSTILE, Scene, captures

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import save_capture
from mismatch_lab.schema import (
    CapturePlan,
    Cause,
    Confirmation,
    EstimateRecord,
    ExperimentRecord,
    Findings,
    Manifest,
    Observation,
    Probe,
    Prompt,
    PromptSource,
    Provenance,
    Remedy,
    RuledOut,
    RunSpec,
    Sampling,
    Side,
    SideSpec,
    Verdict,
    write_json,
)


def build_mismatch(folder: Path) -> Findings:
    """The trainer dropped the attention sinks: position 0 is hit most, then everything."""
    sides = captures(Scene(bug=True, routers=False))
    made = findings(sides, mismatch_verdict())
    made = made.model_copy(update={"localisation": localisation(first="model.layers.0.self_attn")})
    return _write(folder, sides, made)


def build_numerics(folder: Path) -> Findings:
    """bfloat16 on both sides of an MoE: no bug, and flips that explain the tail."""
    sides = captures(Scene(noise=0.03))
    verdict = Verdict(
        status="numerics",
        headline="The sides differ by 0.0312 nats on average, 1.1 times what bfloat16 does to this "
        "model by itself.",
        reasons=[
            "mean |Δ| is above the match limit of 0.0001 nats.",
            "Both sides stay at the floor.",
        ],
        next_command="mismatch-lab diagnose --probe moe --depth deep",
    )
    made = findings(sides, verdict).model_copy(
        update={"routing": routing(sides), "localisation": localisation(first=None)}
    )
    return _write(folder, sides, made)


def build_match(folder: Path) -> Findings:
    """float32 on both sides."""
    sides = captures(Scene(noise=2e-6, routers=False))
    verdict = Verdict(
        status="match",
        headline="Engine and trainer agree: mean |Δ| is 1.6e−6 nats over 2,304 tokens.",
        reasons=["mean |Δ| is under the match limit of 0.0001 nats."],
        next_command="mismatch-lab gate runs/today --baseline runs/last",
    )
    made = findings(sides, verdict).model_copy(update={"drawn": drawn()})
    return _write(folder, sides, made)


def build_underpowered(folder: Path) -> Findings:
    """One row of eight tokens, two captures, no run.json: the least `compare` can have."""
    sides = captures(Scene(rows=1, sampled=8, routers=False))
    sides = {name: sides[name] for name in ("decode", "train")}
    verdict = Verdict(
        status="underpowered",
        headline="8 tokens of 1 sequence are too few to say (at least 256 of 4 are needed).",
        reasons=["There are 8 sampled tokens.", "There is 1 sequence."],
        next_command="mismatch-lab diagnose --probe standard",
    )
    made = findings(sides, verdict).model_copy(update={"noise_floor": None})
    return _write(folder, sides, made, spec=False)


def build_error(folder: Path) -> Findings:
    """Nothing could be measured: findings alone, with an edge of no tokens."""
    nothing = EstimateRecord(value=np.nan, n=0, n_dropped=0, ci95=(np.nan, np.nan))
    verdict = Verdict(
        status="error",
        headline="No token was sampled, so nothing could be measured.",
        reasons=[],
        next_command="",
    )
    made = Findings(
        run="empty",
        edges={"decode_train": {"abs_delta_mean": nothing}},
        noise_floor=None,
        routing=None,
        localisation=None,
        verdict=verdict,
    )
    folder.mkdir(parents=True)
    write_json(folder / "findings.json", made)
    return made


def build_tied(folder: Path) -> Findings:
    """Two causes that nothing observed tells apart."""
    sides = captures(Scene(rows=2, sampled=16, bug=True, routers=False))
    return _write(folder, sides, findings(sides, tied_verdict()))


def build_hostile(folder: Path) -> Findings:
    """Every string that comes from a model or a file tries something."""
    sides = captures(Scene(bug=True, words=HOSTILE))
    evil = HOSTILE[0] + HOSTILE[1] + HOSTILE[3] + HOSTILE[2]
    verdict = mismatch_verdict()
    verdict = verdict.model_copy(
        update={
            "headline": evil,
            "reasons": [evil],
            "next_command": evil,
            "causes": [_evil_cause(verdict.causes[0], evil)] * 2,
            "ruled_out": [RuledOut(id=evil, because=evil)] * 6,
            "experiments": [ExperimentRecord(name=evil, side="train", cost_s=1.0, result=evil)],
        }
    )
    made = findings(sides, verdict).model_copy(
        update={
            "run": evil,
            "notes": [evil],
            "weights": [evil],
            "timings_s": {evil: 1.0},
            "localisation": localisation(first=evil, extra=evil),
            "routing": routing(sides),
        }
    )
    return _write(folder, sides, made, text=evil)


def _evil_cause(cause: Cause, evil: str) -> Cause:
    return cause.model_copy(
        update={
            "id": evil,
            "family": evil,
            "location": evil,
            "why": evil,
            "decides": evil,
            "evidence": [Observation(observation=evil, value=1.0, expected=evil)],
            "confirmed_by": [Confirmation(experiment=evil, before=1.0, after=0.0)],
            "remedy": Remedy(id=evil, how=evil),
        }
    )


def _write(
    folder: Path,
    sides: dict[str, Capture],
    made: Findings,
    spec: bool = True,
    text: str = "How many apples?",
) -> Findings:
    folder.mkdir(parents=True)
    for name, capture in sides.items():
        save_capture(folder / "captures" / name, capture, manifest(name, capture, text))
    if spec:
        write_json(folder / "run.json", run_spec(text))
    write_json(folder / "findings.json", made)
    return made


def manifest(name: str, capture: Capture, text: str = "") -> Manifest:
    """A manifest that fits a capture."""
    side: Side = "train" if name == "train" else "ref" if name == "ref" else "infer"
    engine = {"infer": "vllm", "train": "fsdp", "ref": "hf"}[side]
    return Manifest(
        id=name, side=side, engine=engine, engine_version="0.32.0", model="mini-gpt-oss",
        dtype="float32" if side == "ref" else "bfloat16",
        sampling=Sampling(max_tokens=96) if name == "decode" else None, logprob_space="raw",
        patched=["drop_sinks.py:plant", text] if side == "train" else [],
        options={"max_model_len": 512}, host="lab-7", packages={"torch": "2.13.0+cpu"},
        rows=capture.rows.n_rows, tokens=capture.rows.n_tokens, wall_s=4.2, arrays_sha256="",
        notes=[text] if text else [],
    )  # fmt: skip


def run_spec(text: str) -> RunSpec:
    """run.json of a synthetic run."""

    def side(name: Side, engine: str, dtype: str) -> SideSpec:
        return SideSpec(
            side=name, engine=engine, model="mini-gpt-oss", dtype=dtype, args={"note": text}
        )

    return RunSpec(
        id="2026-11-23-synthetic",
        probe=Probe(
            name="quick", title="Word problems, short answers", why="Small and telling.",
            prompts=PromptSource(set="problems.jsonl", count=2), sampling=Sampling(max_tokens=96),
            capture=CapturePlan(), limits_reason="fp32 agrees to 1e-5; bfloat16 measures its own.",
        ),
        depth="deep",
        infer=side("infer", "vllm", "bfloat16"),
        train=side("train", "fsdp", "bfloat16"),
        ref=side("ref", "hf", "float32"),
        prompts=[
            Prompt(id="p0", messages=[{"role": "user", "content": text}], follow_ups=["And now?"]),
            Prompt(id="p1", token_ids=list(range(60))),
        ],
        provenance=Provenance(
            created="2026-11-23T02:00:00+00:00", host="lab-7", cpu="a processor", cpu_count=2,
            command=["mismatch-lab", "diagnose", "--probe", "quick", "--out", "runs/a b"],
            python="3.11.2", packages={"torch": "2.13.0+cpu", "vllm": "0.32.0"},
        ),
    )  # fmt: skip


BUILDERS = {
    "mismatch": build_mismatch,
    "numerics": build_numerics,
    "match": build_match,
    "underpowered": build_underpowered,
    "error": build_error,
    "tied": build_tied,
    "hostile": build_hostile,
}
