"""Which captures are made at which depth, by whom, and in which order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mismatch_lab.captures.names import CONFIGURED, SECOND
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob
from mismatch_lab.engines.plan import DEEP_FACTOR, SELF_ROWS, capture_plan, floor_dtype, plan_tasks
from mismatch_lab.engines.settings import hookable
from mismatch_lab.findings.edges import EDGES
from mismatch_lab.run.engine_words import EngineOptions
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Depth, RunSpec

REQUEST = DiagnoseRequest(
    model="some/name", engine="fake", trainer="fake", dtype="bfloat16", temperature=0.7
)
DEPTHS: tuple[Depth, ...] = ("quick", "standard", "deep")
QUICK = {
    "engine": ["decode", "prefill", "prefill_repeat"],
    "trainer": ["train", "train_repeat", "train_micro_batch", "train_mode"],
    "reference": ["ref", "floor"],
}


ROLES = {name for pair in EDGES.values() for name in pair} - {SECOND}


def run(depth: Depth = "quick", **changed: object) -> RunSpec:
    return build_run(replace(REQUEST, depth=depth, **changed))  # type: ignore[arg-type]


def jobs(spec: RunSpec) -> dict[str, Job]:
    """By id; in the order in which they are made."""
    tasks = plan_tasks(spec, "captures")
    return {job.id: job for _, task in tasks for stage in task.stages for job in stage.jobs}


def scored(spec: RunSpec) -> dict[str, ScoreJob]:
    return {name: job for name, job in jobs(spec).items() if isinstance(job, ScoreJob)}


def ids(spec: RunSpec) -> dict[str, list[str]]:
    return {
        name: [job.id for stage in task.stages for job in stage.jobs]
        for name, task in plan_tasks(spec, "captures")
    }


def test_quick_makes_what_the_edges_and_the_floor_need() -> None:
    assert ids(run("quick")) == QUICK
    assert ROLES - {CONFIGURED} <= jobs(run("quick")).keys()


def test_an_engine_that_cannot_be_hooked_is_started_twice() -> None:
    configured = run("standard")
    eager = hookable(configured.infer)
    twice = configured.model_copy(update={"infer_eager": eager})
    assert ids(twice)["engine"] == ["decode", CONFIGURED]
    assert ids(twice)["engine, eager"] == ["prefill", "prefill_repeat"]
    specs = {name: task.stages[0].spec for name, task in plan_tasks(twice, "captures")}
    assert (specs["engine"], specs["engine, eager"]) == (configured.infer, eager)
    own = scored(twice)[CONFIGURED]
    assert (own.probes, own.taps, own.routing) == (False, False, False)  # none of it needs a hook
    assert jobs(twice).keys() >= ROLES


def test_a_second_engine_scores_what_the_first_sampled_and_samples_nothing() -> None:
    both = run("standard", second=EngineOptions("fake"))
    assert list(ids(both)) == ["engine", "second engine", "trainer", "reference"]
    assert ids(both)["second engine"] == [SECOND]
    own = scored(both)[SECOND]
    assert (own.source, own.temperature) == ("decode", 0.7)
    assert (own.probes, own.taps, own.routing) == (True, False, False)


def test_a_second_engine_that_cannot_be_hooked_as_configured_gives_log_probs_alone() -> None:
    compiled = EngineOptions("vllm", ("enforce_eager=false",))
    assert not scored(run("quick", second=compiled))[SECOND].probes
    assert scored(run("quick", second=EngineOptions("vllm")))[SECOND].probes


@pytest.mark.parametrize("depth", ["standard", "deep"])
def test_deeper_adds_the_replays(depth: Depth) -> None:
    assert ids(run(depth)) == {
        "engine": QUICK["engine"],
        "trainer": [*QUICK["trainer"], "train_on_infer"],
        "reference": ["ref", "ref_on_infer", "floor", "floor_on_infer"],
    }


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_capture_is_made_after_those_it_reads(depth: Depth) -> None:
    made: list[str] = []
    for name, job in jobs(run(depth)).items():
        if isinstance(job, ScoreJob):
            assert job.source == "decode"
            assert {job.source, job.replay_from} - {None} <= set(made)
        made.append(name)
    assert made[0] == "decode"


@pytest.mark.parametrize("depth", DEPTHS)
def test_everything_is_scored_at_the_temperature_it_was_sampled_at(depth: Depth) -> None:
    spec = run(depth)
    decode = jobs(spec)["decode"]
    assert isinstance(decode, GenerateJob)
    assert decode.sampling.temperature == 0.7
    assert {job.temperature for job in scored(spec).values()} == {0.7}
    assert decode.prompts == spec.prompts


def test_hidden_states_are_recorded_from_standard_on() -> None:
    replays = {"train_on_infer", "ref_on_infer", "floor_on_infer"}
    for depth, tapped in (
        ("quick", set()),
        ("standard", {"prefill", "train", "ref", "floor"} | replays),
        ("deep", {"prefill", "train", "ref", "floor"} | replays),
    ):
        found = scored(run(depth))  # type: ignore[arg-type]
        assert {name for name, job in found.items() if job.taps} == tapped
        assert {n: j.replay_from for n, j in found.items() if j.replay_from} == dict.fromkeys(
            sorted(replays & tapped, key=list(found).index), "prefill"
        )


def test_self_comparisons_are_small_and_differ_in_one_thing() -> None:
    found = scored(run("standard"))
    bare = ("prefill_repeat", "train_repeat", "train_micro_batch", "train_mode")
    for name in bare:
        job = found[name]
        assert job.first_rows == SELF_ROWS
        assert not any((job.probes, job.taps, job.fingerprint))
    assert {name: found[name].micro_batch for name in bare} == {
        "prefill_repeat": None, "train_repeat": None, "train_micro_batch": 1, "train_mode": None,
    }  # fmt: skip
    assert [name for name, job in found.items() if job.train_mode] == ["train_mode"]


def test_the_engine_records_how_likely_its_draws_were_and_nobody_else() -> None:
    for depth in DEPTHS:
        assert [n for n, j in scored(run(depth)).items() if j.draws] == ["prefill"]


def test_every_side_is_fingerprinted_once() -> None:
    assert [n for n, j in scored(run()).items() if j.fingerprint] == ["prefill", "train", "ref"]


def test_routing_is_recorded_where_the_probe_wants_it() -> None:
    spec = run()
    # The trainer's repeats too: a router may choose otherwise in a second pass.
    repeats = ["train_repeat", "train_micro_batch", "train_mode"]
    routed = ["prefill", "train", *repeats, "ref", "floor"]
    assert [n for n, j in scored(spec).items() if j.routing] == routed
    plan = spec.probe.capture.model_copy(update={"routing": False})
    probe = spec.probe.model_copy(update={"capture": plan})
    without = scored(spec.model_copy(update={"probe": probe}))
    assert not any(job.routing for job in without.values())


def test_deep_records_more_of_everything_on_every_side() -> None:
    plain, deep = (scored(run(depth))["prefill"].plan for depth in ("standard", "deep"))
    assert deep.probe_positions == DEEP_FACTOR * plain.probe_positions
    assert deep.tap_rows == DEEP_FACTOR * plain.tap_rows
    assert deep.tap_tokens == plain.tap_tokens
    # Positions are chosen from the plan: sides with other plans would not line up.
    assert {job.plan.model_dump_json() for job in scored(run("deep")).values()} == {
        deep.model_dump_json()
    }


@pytest.mark.parametrize(
    ("width", "layers", "rows", "tokens"),
    [
        (192, 4, 2, 256),  # 4 GiB / (4 * 40 * 192 * 4) = 34,952 tokens: all that was asked for
        (4096, 32, 1, 204),  # 204 tokens: one row in place of two, and it shorter
        (2048, 28, 1, 256),  # 468: one row of 256, a second would not fit whole
    ],
)
def test_large_models_have_fewer_and_shorter_tap_rows(
    tmp_path: Path, width: int, layers: int, rows: int, tokens: int
) -> None:
    sizes = {"hidden_size": width, "num_hidden_layers": layers}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    spec = run("standard")
    engine = spec.infer.model_copy(update={"model": str(tmp_path)})
    plan = capture_plan(spec.model_copy(update={"infer": engine}))
    assert (plan.tap_rows, plan.tap_tokens) == (rows, tokens)


@pytest.mark.parametrize(
    ("infer", "train", "coarser"),
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "float32", "float16"),
        ("bfloat16", "float16", "bfloat16"),
        ("float32", "float32", "float32"),
    ],
)
def test_the_floor_is_that_of_the_coarser_side(infer: str, train: str, coarser: str) -> None:
    spec = run()
    spec = spec.model_copy(
        update={
            "infer": spec.infer.model_copy(update={"dtype": infer}),
            "train": spec.train.model_copy(update={"dtype": train}),
        }
    )
    assert floor_dtype(spec) == coarser
    reference = dict(plan_tasks(spec, "captures"))["reference"]
    # Where fp32 is what is judged, the reference is compared with the next precision up.
    other = "float64" if coarser == "float32" else coarser
    assert [stage.spec.dtype for stage in reference.stages] == ["float32", other]


def test_each_side_runs_in_a_process_of_its_own() -> None:
    tasks = plan_tasks(run(), "some/folder")
    assert [name for name, _ in tasks] == ["engine", "trainer", "reference"]
    assert [{s.spec.side for s in t.stages} for _, t in tasks] == [{"infer"}, {"train"}, {"ref"}]
    assert {task.captures_dir for _, task in tasks} == {"some/folder"}


def test_of_a_record_the_reference_is_fed_what_its_sides_were() -> None:
    """Where its modules' inputs were recorded; otherwise it is seen at the same positions."""
    side = run().infer.model_copy(update={"engine": "recorded"})
    sides = {"infer": side, "train": side.model_copy(update={"side": "train"})}
    modules = {"modules_from": ("decode", "train"), "inputs_from": ("train",)}
    made = scored(run().model_copy(update={**sides, **modules}))
    assert list(made) == ["ref", "ref_on_train", "floor", "floor_on_train"]
    assert (made["ref"].taps, made["ref"].probes_from, made["ref"].replay_from) == (
        True, "decode", None,
    )  # fmt: skip
    fed = made["floor_on_train"]
    assert (fed.taps, fed.probes_from, fed.replay_from) == (True, "train", "train")
    assert list(scored(run().model_copy(update=sides))) == ["ref", "floor"]
