"""From what the user typed to a run's specification."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from mismatch_lab.checkpoints.config import (
    EMBEDDED,
    check_model_path,
    read_config,
    resolve_model_path,
)
from mismatch_lab.checkpoints.tensors import check_same_tensors
from mismatch_lab.engines.base import AS_THEY_ARE, ENGINES, FUNCTION, UPDATING_ENGINES
from mismatch_lab.engines.engine_config import (
    args_of,
    dtype_of,
    read_engine_config,
    sampling_of,
)
from mismatch_lab.engines.http.address import checked_urls
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.options import check_options
from mismatch_lab.engines.plan import REF_ARGS
from mismatch_lab.engines.plugin import check_plugin
from mismatch_lab.engines.provenance import gather
from mismatch_lab.engines.settings import second_start
from mismatch_lab.errors import InputError, choices, nearest
from mismatch_lab.probes import suites
from mismatch_lab.probes.thresholds import prompts_of
from mismatch_lab.run.engine_words import EngineOptions
from mismatch_lab.schema import (
    Depth,
    EngineConfig,
    OptionValue,
    Probe,
    Prompt,
    RunSpec,
    Sampling,
    SideSpec,
    WeightUpdate,
)

DEFAULT_ENGINE = "vllm"

DTYPES = ("float32", "bfloat16", "float16")
_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


@dataclass(frozen=True)
class DiagnoseRequest:
    """The options of `diagnose`, as typed; None is "as the probe or checkpoint says"."""

    model: str = EMBEDDED
    probe: str = "quick"
    engine: str | None = None
    trainer: str = "fsdp"
    dtype: str | None = None
    prompts: Path | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    engine_args: tuple[str, ...] = ()
    trainer_args: tuple[str, ...] = ()
    engine_python: str | None = None
    trainer_python: str | None = None
    engine_plugin: str | None = None
    trainer_plugin: str | None = None
    depth: Depth | None = None
    trust_remote_code: bool = False
    command: tuple[str, ...] = ()
    weights_before: str | None = None
    weight_update: str | None = None
    repeats: int = 1
    engine_config: Path | None = None
    context: int | None = None
    engine_urls: tuple[str, ...] = ()
    second: EngineOptions | None = None
    """Another engine, that scores what the first one sampled."""
    rescore: str | None = None
    """Of a record: the engine, or the server's URL, that scores its tokens again."""


def build_run(request: DiagnoseRequest) -> RunSpec:
    """Resolve every option.

    Raises:
        InputError: an option, probe, prompt file or model is wrong.
    """
    config = _engine_config(request)
    probe = _probe(request, sampling_of(config) if config else {})
    model = request.model
    check_model_path(resolve_model_path(model))
    dtype = resolve_dtype(request.dtype or (dtype_of(config) if config else None), model)
    infer, train = _engine_side(request, config, dtype), _trainer_side(request, dtype)
    second = _second(request, dtype)
    prompts = _prompts(request, probe, infer)
    provenance = gather(list(request.command))
    return RunSpec(
        id=f"{label_of(request.model)}-{probe.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}",
        probe=probe,
        depth=request.depth or probe.depth,
        infer=infer,
        infer_eager=second_start(infer, on_gpu=bool(provenance.accelerators)),
        engine_config=config,
        second=second,
        train=train,
        ref=reference_of(train),
        prompts=prompts,
        provenance=provenance,
        repeats=_repeats(request.repeats),
    )


def _second(request: DiagnoseRequest, dtype: str) -> SideSpec | None:
    """The other engine of a three-way run: built as if it were the only one."""
    own = request.second
    if own is None:
        return None
    alone = replace(
        request,
        engine=own.engine,
        engine_args=own.args,
        engine_python=own.python,
        engine_plugin=own.plugin,
        engine_urls=own.urls,
        engine_config=None,
        weights_before=None,
        weight_update=None,
        second=None,
    )
    return _engine_side(alone, None, dtype).model_copy(update={"side": "second"})


def _engine_side(request: DiagnoseRequest, config: EngineConfig | None, dtype: str) -> SideSpec:
    """The engine, whose typed options stand over its file's."""
    engine = check_engine(_engine(request, config))
    if engine in AS_THEY_ARE:
        raise InputError(f"{engine} is a trainer, it cannot sample.", "Use --engine vllm or hf.")
    from_file = args_of(config) if config is not None else {}
    spec = SideSpec(
        side="infer",
        engine=engine,
        model=request.model,
        dtype=dtype,
        args={**from_file, **parse_args(request.engine_args, "--engine-arg")},
        plugin=request.engine_plugin,
        python=interpreter(engine, request.engine_python),
        trust_remote_code=request.trust_remote_code,
    )
    check_options(spec)
    return spec.model_copy(update=_update(request, config) | _servers(request, config))


def rescoring_side(request: DiagnoseRequest, dtype: str) -> SideSpec | None:
    """The engine that scores a record again: built as if it had sampled it.

    Raises:
        InputError: there is no such engine, or an option of it is wrong.
    """
    if request.rescore is None:
        return None
    is_url = "://" in request.rescore
    named = (
        {"engine": None, "engine_urls": (request.rescore,)}
        if is_url
        else {"engine": request.rescore}
    )
    return _engine_side(replace(request, **named, weights_before=None), None, dtype)


def _trainer_side(request: DiagnoseRequest, dtype: str) -> SideSpec:
    program = request.trainer if ".py:" in request.trainer else None
    trainer = FUNCTION if program is not None else check_engine(request.trainer)
    if program is not None:
        check_plugin(program)
    if (trainer == FUNCTION) is (program is None):
        raise InputError("--trainer function has no function.", "Name it: --trainer FILE.py:FUNC.")
    if trainer in AS_THEY_ARE and request.trainer_plugin is not None:
        raise InputError(
            f"--trainer-plugin changes a model of ours; {request.trainer} is run as it is.",
            "Change the model in a function of yours: --trainer FILE.py:FUNC.",
        )
    spec = SideSpec(
        side="train",
        engine=trainer,
        program=program,
        model=request.model,
        dtype=dtype,
        args=parse_args(request.trainer_args, "--trainer-arg"),
        plugin=request.trainer_plugin,
        python=interpreter(trainer, request.trainer_python),
        trust_remote_code=request.trust_remote_code,
    )
    check_options(spec)
    return spec


def reference_of(train: SideSpec) -> SideSpec:
    """The trainer's model in float32 and transformers' plainest code."""
    fake = train.engine == "fake"
    return train.model_copy(
        update={
            "side": "ref",
            "engine": "fake" if fake else "hf",
            "dtype": "float32",
            "args": {} if fake else dict(REF_ARGS),
            "plugin": None,
            "program": None,
        }
    )


def _update(request: DiagnoseRequest, config: EngineConfig | None) -> dict[str, str | None]:
    """Fields of the engine's spec that speak of a weight update."""
    before, update = request.weights_before, request.weight_update
    if update is not None:
        if update not in get_args(WeightUpdate):
            raise InputError(
                f"Unknown weight update {update!r}.",
                f"Available: {', '.join(get_args(WeightUpdate))}.",
            )
        if before is None:
            raise InputError(
                "--weight-update needs the weights to start from.", "Add --weights-before DIR."
            )
        engine = _engine(request, config)
        if engine not in UPDATING_ENGINES:
            raise InputError(
                f"Engine {engine} cannot be given new weights while it runs.",
                f"These can: {', '.join(UPDATING_ENGINES)}; or leave --weight-update out.",
            )
        if update == "weight_transfer" and engine != "vllm":
            raise InputError(
                f"Weight update weight_transfer is vLLM's; {engine} has none by that name.",
                "Use weights_iterator: SGLang's own begin, update from tensors, end.",
            )
    if before is not None:
        check_same_tensors(before, request.model)
    return {"weights_before": before, "weight_update": update}


def _repeats(repeats: int) -> int:
    if repeats < 1:
        raise InputError(f"--repeats {repeats}: at least once.", "5 give an interval over runs.")
    return repeats


def _engine(request: DiagnoseRequest, config: EngineConfig | None) -> str:
    """Servers that are named are the engine, then what its file is of, whatever is the default."""
    if request.engine_urls:
        return "http"
    return config.engine if config else request.engine or DEFAULT_ENGINE


def _servers(request: DiagnoseRequest, config: EngineConfig | None) -> dict[str, tuple[str, ...]]:
    """The field of the engine's spec that names servers.

    Raises:
        InputError: there are none, or something is asked for that would change them.
    """
    if _engine(request, config) != "http":
        return {}
    if config is not None:
        raise InputError(
            "--engine-config says how an engine is started; a server runs already.",
            "What it runs with is found out by asking it: leave --engine-config out.",
        )
    if not request.engine_urls:
        raise InputError("Engine http has no server.", "Add --engine-url http://HOST:PORT.")
    if request.engine not in ("http", None):
        raise InputError(
            f"--engine {request.engine} does not go with --engine-url.",
            "What a server is, is found out by asking it: leave --engine out.",
        )
    if request.engine_plugin is not None:
        raise InputError(
            "--engine-plugin changes a model in this process; a server that runs is not changed.",
            "Leave it out, or leave out --engine-url.",
        )
    return {"urls": checked_urls(request.engine_urls)}


def label_of(model: str) -> str:
    """What a run of a checkpoint is called after."""
    return Path(model.rstrip("/")).name or "model"


def _prompts(request: DiagnoseRequest, probe: Probe, infer: SideSpec) -> list[Prompt]:
    """The user's, or the probe's: those of a long context past the model's own thresholds."""
    if request.prompts is not None:
        if request.context is not None:
            raise InputError("--context lengthens a probe's prompts; --prompts are as they are.")
        return suites.load_prompts(request.prompts)
    return prompts_of(probe, infer, request.context)


def _engine_config(request: DiagnoseRequest) -> EngineConfig | None:
    if request.engine_config is None:
        return None
    return read_engine_config(request.engine_config, request.engine)


def _probe(request: DiagnoseRequest, configured: Mapping[str, OptionValue]) -> Probe:
    """The probe; what was typed stands over what the engine's file says, that over the probe."""
    probe = suites.load_probe(request.probe)
    asked = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    typed = {name: value for name, value in asked.items() if value is not None}
    given = {**configured, **typed}
    try:
        sampling = Sampling.model_validate(probe.sampling.model_dump() | given)
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {wrong['input']}: {wrong['msg']}.") from error
    return probe.model_copy(update={"sampling": sampling})


def resolve_dtype(dtype: str | None, model: str) -> str:
    """A dtype by name; without one, that of the checkpoint.

    Raises:
        InputError: no such dtype, or a config that cannot be read.
    """
    if dtype is None:
        entries = read_config(model, whole=True)
        dtype = str(entries.get("dtype") or entries.get("torch_dtype") or "bfloat16")
        dtype = dtype if dtype in DTYPES else "bfloat16"
    dtype = _ALIASES.get(dtype, dtype)
    if dtype not in DTYPES:
        raise InputError(
            f"Unknown dtype {dtype!r}.", f"{nearest(dtype, DTYPES)}Available: {', '.join(DTYPES)}."
        )
    return dtype


def check_engine(name: str) -> str:
    """Raise InputError unless there is such an engine."""
    if name not in ENGINES:
        raise InputError(f"Unknown engine {name!r}.", choices(name, ENGINES))
    return name


def parse_args(pairs: tuple[str, ...], flag: str) -> dict[str, OptionValue]:
    """`K=V` pairs; true, false and numbers get their type.

    Raises:
        InputError: no `=`, or a name given twice.
    """
    values: dict[str, OptionValue] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise InputError(f"{flag} {pair!r} is not of the form NAME=VALUE.")
        if name in values:
            raise InputError(f"{flag} {name} is given twice.")
        values[name] = _typed(text.strip())
    return values


def _typed(text: str) -> OptionValue:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text) if re.search(r"\d", text) else text
    except ValueError:
        return text
