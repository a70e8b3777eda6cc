"""From a run's specification to worker tasks: which captures, by which side, in which order."""

from __future__ import annotations

from typing import Any

from mismatch_lab.captures.names import CONFIGURED, HOOKED, SECOND
from mismatch_lab.checkpoints.config import read_config, resolve_model_path
from mismatch_lab.checkpoints.tensors import differing_names, stored_tensors
from mismatch_lab.checkpoints.version_groups import (
    OLD,
    TensorGroup,
    group_tensors,
    replay_id,
    replay_slots,
)
from mismatch_lab.engines.base import AS_THEY_ARE, BLACK_BOXES, RECORDED
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.settings import second_start
from mismatch_lab.schema import Alteration, CapturePlan, RunSpec, SideSpec

REF_ARGS = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""The reference runs transformers' plainest code."""

HIGHER = {"float32": "float64", "bfloat16": "bfloat16", "float16": "float16"}
"""The floor is the reference in another precision than fp32: that of the sides, or, where the
sides are fp32 themselves, the next one up (its distance from fp32 is what fp32 does)."""

DEEP_FACTOR = 4
"""How many times the positions and tap rows of the probe depth deep records."""

TAP_BYTES = 4 << 30
"""Memory for the hidden states of one capture; a diagnosis at depth standard holds seven."""
TAPS_PER_LAYER = 40
"""Tensors as wide as the model that taps of one layer come to: about 14 modules, in and out, some
wider (counted on the scorecard's random architectures: 24 to 46)."""

SELF_ROWS = 8
"""Rows on which a side is compared with itself: a defect there touches every row."""


def plan_tasks(run: RunSpec, captures_dir: str) -> list[tuple[str, WorkerTask]]:
    """(name, task) of each worker process, in the order they must run; none of what is recorded."""
    sides = [
        *_engine_stages(run),
        *_second_stages(run),
        ("trainer", [Stage(spec=run.train, jobs=_train_jobs(run))]),
    ]
    asked = [(name, stages) for name, stages in sides if stages[0].spec.engine != RECORDED]
    return [
        (name, WorkerTask(captures_dir=captures_dir, stages=stages))
        for name, stages in (*asked, ("reference", reference_stages(run)))
    ]


def _engine_stages(run: RunSpec) -> list[tuple[str, list[Stage]]]:
    """The engine as configured and, where that one cannot be hooked, once more in eager code; of a
    record the engine that scores it again, where there is one.
    """
    if run.rescored is not None:
        hooked = second_start(run.rescored, on_gpu=bool(run.provenance.accelerators)) is None
        job = _score(run, HOOKED, bare=not hooked, fingerprint=hooked, draws=hooked)
        again = _score(run, "prefill_repeat", bare=True, first_rows=SELF_ROWS)
        return [("engine", [Stage(spec=run.rescored, jobs=[job, again])])]
    sampled = GenerateJob(id="decode", prompts=run.prompts, sampling=run.probe.sampling)
    seen: list[Job] = [
        _score(run, HOOKED, fingerprint=True, draws=True),
        _score(run, "prefill_repeat", bare=True, first_rows=SELF_ROWS),
    ]
    if run.infer_eager is None:
        return [("engine", [Stage(spec=run.infer, jobs=[sampled, *seen])])]
    jobs: list[Job] = [sampled, _score(run, CONFIGURED, bare=True)]
    return [
        ("engine", [Stage(spec=run.infer, jobs=jobs)]),
        ("engine, eager", [Stage(spec=run.infer_eager, jobs=seen)]),
    ]


def _second_stages(run: RunSpec) -> list[tuple[str, list[Stage]]]:
    """The second engine, started as configured: log-probs, and whole distributions where hooks can
    be had without another start.
    """
    if run.second is None:
        return []
    hooked = second_start(run.second, on_gpu=bool(run.provenance.accelerators)) is None
    job = _score(run, SECOND, bare=True, probes=hooked)
    return [("second engine", [Stage(spec=run.second, jobs=[job])])]


def _train_jobs(run: RunSpec) -> list[Job]:
    jobs: list[Job] = [
        _score(run, "train", fingerprint=True),
        _self(run, "train_repeat", as_tapped=run.depth != "quick"),
        _self(run, "train_micro_batch", micro_batch=1),
    ]
    if run.train.engine not in AS_THEY_ARE:  # those have one mode, and take nothing but token ids
        jobs.append(_self(run, "train_mode", as_tapped=run.depth != "quick", train_mode=True))
    if _replays(run):
        jobs.append(_replay(run, "train_on_infer"))
    return jobs


def _self(run: RunSpec, name: str, **more: Any) -> ScoreJob:
    """The trainer once more on some rows: log-probs, and who its routers choose."""
    routing = run.probe.capture.routing
    return _score(run, name, bare=True, first_rows=SELF_ROWS, routing=routing, **more)


def reference_stages(run: RunSpec) -> list[Stage]:
    """What the reference records, in float32 and in the precision of the floor."""
    stages = []
    seen: dict[str, Any] = {}
    if run.modules_from:
        seen = {"taps": True, "probes_from": run.modules_from[0]}
    for name, dtype in (("ref", "float32"), ("floor", HIGHER[floor_dtype(run)])):
        jobs: list[Job] = [_score(run, name, fingerprint=name == "ref", **seen)]
        if _replays(run):
            jobs.append(_replay(run, f"{name}_on_infer"))
        for source in run.inputs_from:
            on = f"{name}_on_{'train' if source == 'train' else 'infer'}"
            fed = {"replay_from": source, "probes_from": source}
            jobs.append(_score(run, on, bare=True, probes=True, taps=True, **fed))
        if name == "ref":
            jobs += _version_jobs(run)
        spec: SideSpec = run.ref.model_copy(update={"dtype": dtype})
        stages.append(Stage(spec=spec, jobs=jobs))
    return stages


def _version_jobs(run: RunSpec) -> list[Job]:
    """The reference with weights from before an update: all of them, and in replays some."""
    before = run.infer.weights_before
    groups = changed_groups(run)
    if before is None or not groups:
        return []
    folder = resolve_model_path(before)

    def stale(chosen: list[TensorGroup]) -> dict[str, Any]:
        tensors = tuple(name for group in chosen for name in group.tensors)
        return {"alter": (Alteration(name="weights_from", value=folder, tensors=tensors),)}

    jobs: list[Job] = [_score(run, OLD, **stale(groups))]
    if not _replays(run):
        return jobs
    for old in replay_slots(groups):
        jobs.append(_replay(run, replay_id(old), **stale([g for g in groups if g.slot in old])))
    return jobs


def changed_groups(run: RunSpec) -> list[TensorGroup]:
    """Tensors that differ between the weights before an update and the model; none if not given."""
    before = run.infer.weights_before
    if before is None:
        return []
    every = stored_tensors(run.infer.model)
    return group_tensors(differing_names(before, run.infer.model), every)


def floor_dtype(run: RunSpec) -> str:
    """The coarser of both sides' dtypes: what the comparison can be expected to resolve."""
    coarseness = ("bfloat16", "float16", "float32")
    return min((run.infer.dtype, run.train.dtype), key=coarseness.index)


def _score(run: RunSpec, name: str, *, bare: bool = False, **more: Any) -> ScoreJob:
    """A scoring pass; a bare one records log-probs only."""
    asked: dict[str, Any] = {
        "probes": not bare,
        "routing": not bare and run.probe.capture.routing,
        "taps": not bare and run.depth != "quick",
    }
    return ScoreJob(
        id=name,
        source="decode",
        temperature=run.probe.sampling.temperature,
        plan=capture_plan(run),
        **asked | more,
    )


def capture_plan(run: RunSpec) -> CapturePlan:
    """What is recorded, on every side alike.

    At depth deep more of everything: narrower errors, and faults that only some rows have. Of a
    large model fewer tap rows, or at last shorter ones.
    """
    plan = run.probe.capture
    if run.depth == "deep":
        plan = plan.model_copy(
            update={
                "probe_positions": DEEP_FACTOR * plan.probe_positions,
                "tap_rows": DEEP_FACTOR * plan.tap_rows,
            }
        )
    fitting = _tap_tokens_that_fit(run.infer.model)
    if fitting is None:
        return plan
    tokens = max(2, min(plan.tap_tokens, fitting))
    rows = max(1, min(plan.tap_rows, fitting // tokens))
    return plan.model_copy(update={"tap_tokens": tokens, "tap_rows": rows})


def _tap_tokens_that_fit(model: str) -> int | None:
    """Tokens of all tap rows together; None where the config does not say how large it is."""
    config = read_config(model)
    widths = (config.get(name) for name in ("hidden_size", "n_embd", "d_model"))
    depths = (config.get(name) for name in ("num_hidden_layers", "n_layer", "n_layers"))
    width, layers = (next((v for v in values if v), None) for values in (widths, depths))
    if not width or not layers:
        return None
    return TAP_BYTES // (4 * TAPS_PER_LAYER * int(width) * int(layers))


def _replays(run: RunSpec) -> bool:
    """Whether modules are fed the engine's inputs: it must have recorded them."""
    return run.depth != "quick" and run.infer.engine not in BLACK_BOXES


def _replay(run: RunSpec, name: str, **more: Any) -> ScoreJob:
    return _score(run, name, bare=True, probes=True, taps=True, replay_from="prefill", **more)
