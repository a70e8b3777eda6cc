"""Run one case: plant, let `diagnose` look, and compare what it says with the truth."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mismatch_lab.diagnose import OnEvent, diagnose
from mismatch_lab.engines.checkpoint import locate
from mismatch_lab.engines.settings import HOOKABLE, PLAIN_VLLM
from mismatch_lab.errors import MismatchLabError, NotApplicableError
from mismatch_lab.executors import warm
from mismatch_lab.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings, OptionValue, RunSpec
from mismatch_lab.scorecard.captures_alone import ask_captures
from mismatch_lab.scorecard.judge import Parted, judge
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
        findings, black_box = _diagnose(case, model, setup_for(model), bench, on_event)
    except MismatchLabError as error:
        return CaseResult(
            case=case, judgement=None, problem=error.problem, code=bench.code,
            not_applicable=_cannot_be_planted(error), wall_s=time.perf_counter() - began,
        )  # fmt: skip
    except Exception as error:  # a defect of the tool costs this case, not the night
        where = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return CaseResult(
            case=case, judgement=None, problem=problem, code=bench.code,
            wall_s=time.perf_counter() - began,
        )  # fmt: skip
    return _result(case, findings, black_box, bench, time.perf_counter() - began)


def build_case_run(case: Case, model: str, setup: Setup, bench: Bench) -> RunSpec:
    """The run as the tool gets it: nothing in it names what is planted."""
    work = bench.out / WORK
    before = str(Path(locate(model)).resolve()) if setup.updated else None
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


def _diagnose(
    case: Case, model: str, setup: Setup, bench: Bench, on_event: OnEvent
) -> tuple[Findings, BlackBox]:
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
            return findings, ask_captures(case, folder / "captures")
        finally:
            if bench.keep_runs and folder.is_dir():
                _keep(folder, bench.out / RUNS / case.id)


def _keep(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)


def _result(
    case: Case, findings: Findings, black_box: BlackBox, bench: Bench, wall_s: float
) -> CaseResult:
    verdict = findings.verdict
    edge = findings.edges.get("decode_train", {}).get("abs_delta_mean")
    floor = findings.noise_floor
    ratios = [floor.infer_ratio, floor.train_ratio, floor.edge_ratio] if floor else []
    finite = [ratio.value for ratio in ratios if math.isfinite(ratio.value)]
    return CaseResult(
        case=case,
        judgement=judge(case, verdict.status, verdict.causes, _parted(findings)),
        status=verdict.status,
        headline=verdict.headline,
        reasons=tuple(verdict.reasons),
        causes=tuple(verdict.causes),
        black_box=black_box,
        effect_nats=edge.value if edge else math.nan,
        floor_ratio=max(finite, default=math.nan),
        experiments=len(verdict.experiments),
        # A name with a dot lies within a stage. A diagnosis by itself starts its own server.
        diagnosis_s=warm.start_s()
        + sum(s for name, s in findings.timings_s.items() if "." not in name),
        wall_s=wall_s,
        code=bench.code,
    )


def _parted(findings: Findings) -> Parted:
    """The side and the module that were localised; without them, the side with more error."""
    found, floor = findings.localisation, findings.noise_floor
    if found is not None and found.side is not None:
        return found.side, found.first_divergent_module
    if floor is None:
        return "undecided", None
    worse = floor.train_ratio.value > floor.infer_ratio.value
    return "train" if worse else "infer", None


def _cannot_be_planted(error: MismatchLabError) -> bool:
    """Said by the fault itself, perhaps within a plugin in another process."""
    return isinstance(error, NotApplicableError) or NotApplicableError.__name__ in error.problem


def _pairs(args: dict[str, OptionValue]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in args.items())
