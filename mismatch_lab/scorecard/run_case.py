"""Run one case: plant, let `diagnose` look, and compare what it says with the truth."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.settings import HOOKABLE, PLAIN_VLLM
from mismatch_lab.errors import MismatchLabError, NotApplicableError
from mismatch_lab.executors import forked
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings, OptionValue, RunSpec
from mismatch_lab.schema.events import OnEvent
from mismatch_lab.scorecard.black_box import ask_captures, ask_record, problem_of
from mismatch_lab.scorecard.judge import judge, parted
from mismatch_lab.scorecard.models import TRANSFORMERS_ARGS
from mismatch_lab.scorecard.records import BlackBox, Case, CaseResult
from mismatch_lab.scorecard.setup import Setup, edited_checkpoint, plugin_file
from mismatch_lab.scorecard.store import CACHE, RUNS, WORK

PROBE = "standard"
"""With hidden states, so that a fault can be located."""
TRAINER = "fsdp"


@dataclass(frozen=True)
class Bench:
    """Where and with what cases are run."""

    out: Path
    find_model: Callable[[str], str]
    """An architecture's name -> its checkpoint."""
    trainer: str = TRAINER
    probe: str = PROBE
    prompts: int | None = None
    """Only so many of the probe's."""
    max_tokens: int | None = None
    keep_runs: bool = False
    repeats: int = 1
    """Of the measuring part of each case."""
    code: str = ""


def run_case(
    case: Case, setup_for: Callable[[str], Setup], bench: Bench, on_event: OnEvent
) -> CaseResult:
    """One diagnosis, judged; what fails is a result too, so that a card goes on without it."""
    began = time.perf_counter()
    try:
        model = bench.find_model(case.model)
        result = _diagnose(case, model, setup_for(model), bench, on_event)
    except Exception as error:  # a defect of the tool costs this case, not the night
        result = CaseResult(
            case=case, judgement=None, problem=problem_of(error), code=bench.code,
            not_applicable=_cannot_be_planted(error),
        )  # fmt: skip
    return result.model_copy(update={"wall_s": time.perf_counter() - began})


def build_case_run(case: Case, model: str, setup: Setup, bench: Bench) -> RunSpec:
    """The run as the tool gets it: nothing in it names what is planted."""
    work = bench.out / WORK
    before = str(Path(resolve_model_path(model)).resolve()) if setup.updated else None
    model = edited_checkpoint(model, setup, work)
    stock = TRANSFORMERS_ARGS.get(case.model, {})
    plain = {"hf": stock, "vllm": PLAIN_VLLM, "sglang": HOOKABLE["sglang"]}.get(case.engine, {})
    engine_args = {**plain, **setup.engine_args}
    run = build_run(
        DiagnoseRequest(
            model=model,
            probe=setup.probe or bench.probe,
            engine=case.engine,
            trainer=bench.trainer,
            dtype=case.dtype,
            max_tokens=setup.max_tokens or bench.max_tokens,
            temperature=setup.temperature,
            top_p=setup.top_p,
            seed=setup.seed,
            engine_args=_pairs(engine_args),
            trainer_args=_pairs({**stock, **setup.trainer_args}),
            engine_plugin=plugin_file(setup.engine_plugin, work),
            trainer_plugin=plugin_file(setup.trainer_plugin, work),
            depth="standard",
            weights_before=before,
            repeats=bench.repeats,
            command=("mismatch-lab", "diagnose", model),
        )
    )
    return run.model_copy(update={"prompts": run.prompts[: bench.prompts]})


def _diagnose(case: Case, model: str, setup: Setup, bench: Bench, on_event: OnEvent) -> CaseResult:
    run = build_case_run(case, model, setup, bench)

    def after_task(name: str, captures: Path) -> None:
        for task, edit in setup.capture_edits:
            if task == name:
                edit(captures)

    with tempfile.TemporaryDirectory(dir=bench.out / WORK) as scratch:
        folder = Path(scratch) / "run"
        try:
            findings = diagnose(
                run, folder, False, on_event, after_task=after_task, cache=bench.out / CACHE
            )
            captures = folder / "captures"
            alone = ask_captures(case, captures)
            recorded = ask_record(case, run, captures, Path(scratch) / "recorded", on_event)
            return _result(case, findings, alone, recorded, bench)
        finally:
            if bench.keep_runs and folder.is_dir():
                _keep(folder, bench.out / RUNS / case.id)


def _keep(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)


def _result(
    case: Case, findings: Findings, black_box: BlackBox, recorded: BlackBox, bench: Bench
) -> CaseResult:
    verdict = findings.verdict
    edge = findings.edges.get("decode_train", {}).get("abs_delta_mean")
    floor = findings.noise_floor
    ratios = [floor.infer_ratio, floor.train_ratio, floor.edge_ratio] if floor else []
    finite = [ratio.value for ratio in ratios if math.isfinite(ratio.value)]
    return CaseResult(
        case=case,
        judgement=judge(case, verdict.status, verdict.causes, parted(findings)),
        status=verdict.status,
        headline=verdict.headline,
        reasons=tuple(verdict.reasons),
        causes=tuple(verdict.causes),
        black_box=black_box,
        recorded=recorded,
        effect_nats=edge.value if edge else math.nan,
        floor_ratio=max(finite, default=math.nan),
        experiments=len(verdict.experiments),
        # A name with a dot lies within a stage. A diagnosis by itself starts its own server.
        diagnosis_s=forked.start_s()
        + sum(s for name, s in findings.timings_s.items() if "." not in name),
        code=bench.code,
    )


def _cannot_be_planted(error: Exception) -> bool:
    """Said by the fault itself, perhaps within a plugin in another process."""
    if not isinstance(error, MismatchLabError):
        return False
    return isinstance(error, NotApplicableError) or NotApplicableError.__name__ in error.problem


def _pairs(args: dict[str, OptionValue]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in args.items())
