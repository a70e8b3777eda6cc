"""What somebody's own run recorded, diagnosed: log-probs of both sides, and the checkpoint.

The sides are captures, or arrays. The checkpoint gives the reference, the noise floor of the sides'
precision, and every cause that can be simulated; what was recorded beside the log-probs (the
engine's re-scoring, choices of experts) is used where it is there. Nothing of the side is started:
what only an experiment on it decides is listed for its user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mismatch_lab.attribution.two_captures import differing_ids
from mismatch_lab.captures.arrays import is_arrays, manifest_of, read_pair
from mismatch_lab.captures.capture import Capture, Int64, chosen_rows
from mismatch_lab.captures.names import HOOKED
from mismatch_lab.captures.packing import drawn
from mismatch_lab.captures.probes import tapped_rows
from mismatch_lab.captures.store import MANIFEST, load_capture, save_capture
from mismatch_lab.checkpoints.config import check_model_path, read_config, resolve_model_path
from mismatch_lab.checkpoints.tensors import check_same_tensors
from mismatch_lab.engines.base import CACHED_TOKENS, RECORDED, WEIGHT_VERSIONS
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.engines.provenance import gather
from mismatch_lab.errors import InputError
from mismatch_lab.executors.cache import run_cached
from mismatch_lab.findings.record import examine, with_version
from mismatch_lab.probes.suites import load_probe
from mismatch_lab.run.compare import compare_findings, no_measurement
from mismatch_lab.run.diagnose import RUN_FILE, finish, locked, prepare_folder, timed
from mismatch_lab.run.request import (
    DiagnoseRequest,
    label_of,
    reference_of,
    rescoring_side,
    resolve_dtype,
)
from mismatch_lab.schema import (
    Findings,
    Limits,
    Manifest,
    OptionValue,
    Prompt,
    RecordFindings,
    RunSpec,
    Sampling,
    SideSpec,
    write_json,
)
from mismatch_lab.schema.events import OnEvent

ROWS = 128
"""Rows that the reference scores where nothing else is asked: more than a probe has, minutes on a
CPU for a small model."""

AGAIN = ("train_repeat", "train_micro_batch", "train_mode")
"""Further passes of the trainer over the first rows: unchanged, one sequence a forward, in training
mode. What it then says otherwise it contradicts itself in."""

ENGINE_NAMES = ("decode", "infer")
"""What a folder may call the engine's capture."""

OPTIONS = frozenset(
    {
        *("model", "dtype", "temperature", "top_p", "seed", "weights_before"),
        *("trust_remote_code", "command", "rescore"),
    }
)
"""Fields of a `DiagnoseRequest` that say something of a record; others say how a side is run."""
OF_RESCORING = frozenset({"engine_args", "engine_python", "engine_plugin"})
"""Those that say how the engine is started that scores a record again."""


STEPS_SHOWN = 12
"""Names of steps in a message."""


@dataclass(frozen=True)
class Record:
    """Captures of one set of tokens, by their ids in a run."""

    captures: Mapping[str, Capture]
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    """Of those that have one: arrays have none."""
    says: RecordFindings | None = None
    """What it says of itself, where that was looked at; the captures are then of what is left."""

    @property
    def tokens(self) -> Capture:
        """The engine's: whose tokens all the others hold."""
        return self.captures["decode"]


def read_record(paths: tuple[Path, ...]) -> Record:
    """A record from a folder of captures, a run's folder, two captures, or a file of arrays or two.

    Raises:
        InputError: there are not two sides.
        CaptureError: a file cannot be read.
    """
    if len(paths) > 2:
        raise InputError(
            f"--captures is given {len(paths)} times.", "Name the engine's, then the trainer's."
        )
    if is_arrays(paths[0]):
        infer, train = read_pair(paths[0], paths[1] if len(paths) > 1 else None)
        return Record({"decode": infer, "train": train})
    if len(paths) == 1:
        folders = _of_folder(paths[0])
    else:
        folders = dict(zip(("decode", "train"), paths, strict=True))
    loaded = {name: load_capture(folder) for name, folder in folders.items()}
    return Record(
        {name: capture for name, (capture, _) in loaded.items()},
        {name: manifest for name, (_, manifest) in loaded.items()},
    )


def _of_folder(folder: Path) -> dict[str, Path]:
    """Capture folders within one, by their ids in a run; a re-scoring too, where there is one."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist.", "A folder of captures, .npz or .csv.")
    inside = folder / "captures" if (folder / "captures").is_dir() else folder
    there = {path.parent.name for path in inside.glob(f"*/{MANIFEST}")}
    steps = [] if there else _steps_in(folder)
    if steps:
        shown = [*steps[:STEPS_SHOWN], "…"] if steps[STEPS_SHOWN:] else steps
        raise InputError(
            f"{folder} holds {len(steps)} records, a step or a rank each: {', '.join(shown)}.",
            f"Weights change between steps: name one, as --captures {folder / steps[0]}.",
        )
    infer = next((name for name in ENGINE_NAMES if name in there), None)
    if infer is None or "train" not in there:
        raise InputError(
            f"{folder} holds {', '.join(sorted(there)) or 'no capture'}.",
            f"Wanted: a capture named {' or '.join(ENGINE_NAMES)} and one named train; or name "
            "both folders, the engine's first.",
        )
    own = {name: inside / name for name in ("train", HOOKED, *AGAIN) if name in there}
    return {"decode": inside / infer, **own}


def _steps_in(folder: Path) -> list[str]:
    """Folders of steps, as `ingest` and `live.Recorder` name them, that hold captures."""
    found = {path.parent.parent.name for path in folder.glob(f"step-*/*/{MANIFEST}")}
    return sorted(found)


def check_out(out: Path, paths: tuple[Path, ...]) -> None:
    """Refuse to write where the record lies: --overwrite would replace it by the rows looked at.

    Raises:
        InputError: the run's folder is the record, holds it, or lies within it.
    """
    target = out.resolve()
    for path in (path.resolve() for path in paths):
        if target == path or target in path.parents or path in target.parents:
            raise InputError(f"{out} is where the record lies.", "Choose another --out.")


def without_reference(record: Record, paths: tuple[Path, ...]) -> Findings | None:
    """Findings that no reference could add to: the sides hold different tokens, of which log-probs
    cannot be compared, or one's numbers stand for both.
    """
    infer, train = record.captures["decode"], record.captures["train"]
    names = (str(paths[0]), str(paths[-1]))
    if differing_ids(infer, train) is None and (
        no_measurement(infer, train, examine(infer, train, names)) is None
    ):
        return None
    return compare_findings(infer, train, names, Limits())


def looked_into(record: Record) -> Record:
    """The rows of a record that are left to be compared, with what it says of itself."""
    sides = {"decode": "infer", "train": "train"}
    infer, train = (
        with_version(record.captures[name], record.manifests.get(name), side)
        for name, side in sides.items()
    )
    examined = examine(infer, train)
    whole = replace(record, captures={**record.captures, "decode": infer, "train": train})
    left = whole if examined.is_whole else _of_these_rows(whole, examined.rows)
    return replace(left, says=examined.record)


def drawn_rows(record: Record, rows: int, seed: int) -> Record:
    """The record of so many rows at most, drawn by the seed, in their order; where the trainer
    packed, whole packed rows.
    """
    count = record.tokens.rows.n_rows
    if count <= rows:
        return record
    return _of_these_rows(record, drawn(record.captures["train"].packs, count, rows, seed))


def _of_these_rows(record: Record, chosen: Int64) -> Record:
    count = record.tokens.rows.n_rows
    of_first = {
        name: chosen[chosen < capture.rows.n_rows] for name, capture in record.captures.items()
    }
    captures = {
        name: chosen_rows(capture, of_first[name])
        for name, capture in record.captures.items()
        if len(of_first[name])
    }
    manifests = {
        name: manifest.model_copy(update={"options": _of_rows(manifest.options, chosen, count)})
        for name, manifest in record.manifests.items()
        if name in captures
    }
    return replace(record, captures=captures, manifests=manifests)


def _of_rows(
    options: Mapping[str, OptionValue], chosen: Int64, count: int
) -> dict[str, OptionValue]:
    """What is said row by row, of the chosen ones."""
    kept = dict(options)
    for name in (CACHED_TOKENS, WEIGHT_VERSIONS):
        words = str(options.get(name, "")).split()
        if len(words) == count:  # else nothing was cached, or rows are conversations
            kept[name] = " ".join(words[row] for row in chosen.tolist())
    return kept


def build_recorded_run(request: DiagnoseRequest, record: Record) -> RunSpec:
    """What is asked of a record, resolved.

    Raises:
        InputError: an option contradicts the record, or the checkpoint is not of its model.
    """
    model = request.model
    check_model_path(resolve_model_path(model))
    _check_vocabulary(record, model)
    if request.weights_before is not None:
        check_same_tensors(request.weights_before, model)
    probe = load_probe("quick")
    sampling = _sampling(request, record)
    infer = SideSpec(
        side="infer",
        engine=RECORDED,
        model=model,
        dtype=_dtype(request, record, "decode"),
        trust_remote_code=request.trust_remote_code,
    )
    own = {"side": "train", "dtype": _dtype(request, record, "train")}
    train = infer.model_copy(update=own)
    rescored = rescoring_side(request, infer.dtype)
    if rescored is not None and HOOKED in record.captures:
        raise InputError(
            "The record holds a re-scoring by its engine already.", "Leave --rescore out."
        )
    return RunSpec(
        id=f"{label_of(model)}-recorded-{datetime.now().astimezone():%Y%m%d-%H%M%S}",
        probe=probe.model_copy(update={"name": RECORDED, "sampling": sampling}),
        depth="quick",
        infer=infer.model_copy(update={"weights_before": request.weights_before}),
        rescored=rescored,
        train=train,
        ref=reference_of(train),
        modules_from=_with_modules(record, lambda names: bool(names)),
        inputs_from=_with_modules(record, lambda names: any(n.endswith(":in") for n in names)),
        prompts=_prompts(record.tokens),
        provenance=gather(list(request.command)),
    )


def _with_modules(record: Record, wanted: Callable[[Collection[str]], bool]) -> tuple[str, ...]:
    """Captures of each side, the engine's first, with hidden states that are as wanted; of the
    engine its re-scoring, where there is one.
    """
    engine = HOOKED if HOOKED in record.captures else "decode"
    return tuple(
        name
        for name in (engine, "train")
        if tapped_rows(record.captures[name]) and wanted(record.captures[name].hidden.keys())
    )


def _sampling(request: DiagnoseRequest, record: Record) -> Sampling:
    """As recorded; what the record does not say is as typed, or the default.

    Raises:
        InputError: it was recorded otherwise than typed.
    """
    manifest = record.manifests.get("decode")
    said = manifest.sampling if manifest is not None else None
    asked = {"temperature": request.temperature, "top_p": request.top_p}
    typed: dict[str, Any] = {name: v for name, v in asked.items() if v is not None}
    if said is None:
        return Sampling(**typed)
    for name, value in typed.items():
        if getattr(said, name) != value:
            raise InputError(
                f"The engine's capture was sampled at {name} {getattr(said, name)}, not {value}.",
                f"Leave --{name.replace('_', '-')} out.",
            )
    return said


def _dtype(request: DiagnoseRequest, record: Record, name: str) -> str:
    manifest = record.manifests.get(name)
    said = manifest.dtype if manifest is not None else ""
    return resolve_dtype(request.dtype or said or None, request.model)


def _check_vocabulary(record: Record, model: str) -> None:
    known = read_config(model).get("vocab_size")
    highest = int(record.tokens.rows.token_ids.max(initial=0))
    if isinstance(known, int) and highest >= known:
        raise InputError(
            f"The record holds token {highest}, and {model} has {known} tokens.",
            "Is it the checkpoint that the record is of?",
        )


def _prompts(capture: Capture) -> list[Prompt]:
    rows = capture.rows
    spans = zip(rows.spans(), rows.prompt_lengths.tolist(), strict=True)
    return [
        Prompt(id=f"row {row}", token_ids=rows.token_ids[start : start + length].tolist())
        for row, ((start, _), length) in enumerate(spans)
    ]


def diagnose_recorded(
    run: RunSpec,
    record: Record,
    out: Path,
    overwrite: bool,
    on_event: OnEvent,
    budget_s: float | None = None,
) -> Findings:
    """Score the record by the reference, and write `findings.json` and `report.html` to `out`.

    Args:
        run: of `build_recorded_run`.
        record: of the rows that are looked at.
        out: the run's folder.
        overwrite: replace a finished run.
        on_event: is told what happens.
        budget_s: seconds for the search of the cause; None is the default.

    Raises:
        MismatchLabError: wrong input, or a reference that could not be run.
    """
    prepare_folder(out, overwrite)
    with locked(out):
        write_json(out / RUN_FILE, run)
        folder = out / "captures"
        for name, capture in record.captures.items():
            save_capture(folder / name, capture, _manifest(run, record, name))
        timings_s: dict[str, float] = {}
        told = timed(on_event, timings_s)
        for name, task in plan_tasks(run, str(folder.resolve())):
            timings_s[name] = run_cached(task, name, out / "logs", told, None)
        return finish(run, out, timings_s, on_event, budget_s, record=record.says)


def _manifest(run: RunSpec, record: Record, name: str) -> Manifest:
    """The record's own, or what little is known of arrays; of the rows that are looked at."""
    if name in record.manifests:
        rows = record.captures[name].rows
        held = {"id": name, "rows": rows.n_rows, "tokens": rows.n_tokens}
        return record.manifests[name].model_copy(update=held)
    side = run.train if name == "train" else run.infer
    return manifest_of(name, side, record.captures[name], run.probe.sampling)
