"""From what the user typed to a run's specification."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from mismatch_lab import suites
from mismatch_lab.engines.base import ENGINES, UPDATING_ENGINES
from mismatch_lab.engines.checkpoint import EMBEDDED, check_model_path, locate
from mismatch_lab.engines.checkpoint_tensors import check_same_tensors
from mismatch_lab.engines.http.address import checked_urls
from mismatch_lab.engines.options import check_options
from mismatch_lab.errors import InputError
from mismatch_lab.plan import REF_ARGS
from mismatch_lab.provenance import gather
from mismatch_lab.schema import (
    Depth,
    OptionValue,
    Probe,
    RunSpec,
    Sampling,
    SideSpec,
    WeightUpdate,
)

DTYPES = ("float32", "bfloat16", "float16")
_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


@dataclass(frozen=True)
class DiagnoseRequest:
    """The options of `diagnose`, as typed; None is "as the probe or checkpoint says"."""

    model: str = EMBEDDED
    probe: str = "quick"
    engine: str = "vllm"
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
    engine_urls: tuple[str, ...] = ()


def build_run(request: DiagnoseRequest) -> RunSpec:
    """Resolve every option.

    Raises:
        InputError: an option, probe, prompt file or model is wrong.
    """
    probe = _probe(request)
    model = request.model
    check_model_path(locate(model))
    dtype = resolve_dtype(request.dtype, model)
    prompts = (
        suites.load_prompts(request.prompts) if request.prompts else suites.probe_prompts(probe)
    )
    sides = {
        "infer": (
            _engine(request),
            request.engine_args,
            request.engine_plugin,
            request.engine_python,
        ),
        "train": (
            request.trainer,
            request.trainer_args,
            request.trainer_plugin,
            request.trainer_python,
        ),
    }
    specs = {
        side: SideSpec(
            side=side,  # type: ignore[arg-type]
            engine=check_engine(engine),
            model=model,
            dtype=dtype,
            args=parse_args(args, "--engine-arg" if side == "infer" else "--trainer-arg"),
            plugin=plugin,
            python=python,
            trust_remote_code=request.trust_remote_code,
        )
        for side, (engine, args, plugin, python) in sides.items()
    }
    for spec in specs.values():
        check_options(spec)
    specs["infer"] = specs["infer"].model_copy(update=_update(request) | _servers(request))
    fake = specs["train"].engine == "fake"
    ref = specs["train"].model_copy(
        update={
            "side": "ref",
            "engine": "fake" if fake else "hf",
            "dtype": "float32",
            "args": {} if fake else dict(REF_ARGS),
            "plugin": None,
        }
    )
    return RunSpec(
        id=f"{_label(request.model)}-{probe.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}",
        probe=probe,
        depth=request.depth or probe.depth,
        infer=specs["infer"],
        train=specs["train"],
        ref=ref,
        prompts=prompts,
        provenance=gather(list(request.command)),
    )


def _update(request: DiagnoseRequest) -> dict[str, str | None]:
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
        if _engine(request) not in UPDATING_ENGINES:
            raise InputError(
                f"Engine {_engine(request)} cannot be given new weights while it runs.",
                f"These can: {', '.join(UPDATING_ENGINES)}; or leave --weight-update out.",
            )
    if before is not None:
        check_same_tensors(before, request.model)
    return {"weights_before": before, "weight_update": update}


def _engine(request: DiagnoseRequest) -> str:
    """Servers that are named are the engine, whatever else is the default."""
    return "http" if request.engine_urls else request.engine


def _servers(request: DiagnoseRequest) -> dict[str, tuple[str, ...]]:
    """The field of the engine's spec that names servers.

    Raises:
        InputError: there are none, or something is asked for that would change them.
    """
    if _engine(request) != "http":
        return {}
    if not request.engine_urls:
        raise InputError("Engine http has no server.", "Add --engine-url http://HOST:PORT.")
    if request.engine not in ("http", DiagnoseRequest.engine):
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


def _label(model: str) -> str:
    return Path(model.rstrip("/")).name or "model"


def _probe(request: DiagnoseRequest) -> Probe:
    probe = suites.load_probe(request.probe)
    asked = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    given = {name: value for name, value in asked.items() if value is not None}
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
        InputError: no such dtype.
    """
    if dtype is None:
        config = Path(locate(model)) / "config.json"
        text = config.read_text(encoding="utf-8") if config.is_file() else "{}"
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{config} is not JSON: {error}.") from error
        if not isinstance(entries, dict):
            raise InputError(f"{config} is not a JSON object.", "Is it a checkpoint folder?")
        dtype = str(entries.get("dtype") or entries.get("torch_dtype") or "bfloat16")
        dtype = dtype if dtype in DTYPES else "bfloat16"
    dtype = _ALIASES.get(dtype, dtype)
    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Available: {', '.join(DTYPES)}.")
    return dtype


def check_engine(name: str) -> str:
    """Raise InputError unless there is such an engine."""
    if name not in ENGINES:
        raise InputError(f"Unknown engine {name!r}.", f"Available: {', '.join(sorted(ENGINES))}.")
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
