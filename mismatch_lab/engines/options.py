"""Engine options from `--engine-arg K=V`: known names only, with the type of the default.

Light: they are checked before an engine, or what it needs, is loaded.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from mismatch_lab.errors import InputError, nearest
from mismatch_lab.schema import OptionValue, SideSpec

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

SET_BY_US = ("model", "dtype", "trust_remote_code", "tokenizer", "skip_tokenizer_init")
"""Engine arguments of vLLM that options of ours set."""

MOST_REQUESTS = 256
"""At a time, of each server that engine http asks."""

Options = TypeVar("Options")


def parse_options(kind: type[Options], engine: str, given: dict[str, OptionValue]) -> Options:
    """Build the options dataclass `kind` from what the user gave.

    Raises:
        InputError: an unknown name, or a value of another type than the default's.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            every = f"It has: {', '.join(sorted(known))}."
            raise InputError(
                f"Engine {engine} has no option {name!r}.", f"{nearest(name, known)}{every}"
            )
        values[name] = _typed(engine, name, value, known[name].default)
    return kind(**values)


def _typed(engine: str, name: str, value: OptionValue, default: Any) -> OptionValue:
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:  # True would pass for an int
        raise InputError(
            f"Option {name} of engine {engine} wants {wanted.__name__}, not {value!r}.",
            f"Its default is {default!r}.",
        )
    return value


@dataclass(frozen=True)
class TorchOptions:
    """Options of the engines that run transformers models (`fsdp`, `hf`)."""

    attn_implementation: str = "auto"
    """`auto` is the model's own choice; else eager, sdpa, flash_attention_2, …"""
    experts_implementation: str = "auto"
    """`auto` is the model's own choice; else eager, batched_mm, grouped_mm."""
    micro_batch: int = 4
    """Sequences per forward."""
    device: str = "auto"
    """`auto` is cuda where there is one, else cpu."""
    packing: bool = False
    """Rows of a micro-batch one after another in one sequence, with restarted positions."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""


@dataclass(frozen=True)
class FsdpOptions(TorchOptions):
    """Options of the FSDP2 trainer."""

    world_size: int = 1
    """Ranks; each is a process."""
    param_dtype: str = "auto"
    """Dtype of the forward pass (mixed precision); `auto` is the side's --dtype."""
    master_dtype: str = "auto"
    """Dtype the weights are held in; `auto` is the side's --dtype."""
    autocast: bool = False
    """The forward within `torch.autocast` to the side's --dtype, as verl and accelerate run it."""
    gradient_checkpointing: bool = False
    """Passes in training mode run as an update's forward does: with gradients, each layer
    checkpointed. In evaluation mode, and without gradients, checkpointing does nothing."""
    liger: bool = False
    """Liger's Triton kernels in place of the model's own norms, rotary embedding and MLP."""

    def __post_init__(self) -> None:
        for name in ("param_dtype", "master_dtype"):
            if getattr(self, name) not in DTYPES:
                raise InputError(
                    f"Option {name} of engine fsdp: {getattr(self, name)!r} is not a dtype.",
                    f"Known: {', '.join(DTYPES)}.",
                )


@dataclass(frozen=True)
class HttpOptions:
    """How the servers are asked."""

    concurrency: int = 8
    """Requests at a time, of each server."""
    timeout_s: float = 600.0
    """Seconds for one request, with all its tries."""
    checksum: bool = False
    """Compare a checksum of the weights before and after each pass: the server computes it, which
    takes as long as reading all weights. vLLM has it with VLLM_SERVER_DEV_MODE=1."""
    served_model: str = ""
    """Name of the model on a server that serves several."""

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST_REQUESTS:
            raise InputError(f"Option concurrency of engine http: 1 to {MOST_REQUESTS}.")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise InputError("Option timeout_s of engine http is a number of seconds above 0.")


@dataclass(frozen=True)
class FakeOptions:
    """Options of the fake engine."""

    noise: float = 1.0
    """Perturbation of each module's output, in half units in the last place of the dtype."""
    seed: int = 0
    """Of that perturbation, beside the side."""
    context_length: int = 1024
    """Positions; longer prompts are errors."""
    micro_batch: int = 4
    """Sequences per forward (of interest to the defect batch_variance only)."""
    defect: str = ""
    """One of fake_defects.DEFECTS."""
    defect_size: float = 0.5


OPTIONS: dict[str, type] = {
    "hf": TorchOptions, "fsdp": FsdpOptions, "http": HttpOptions, "fake": FakeOptions,
}  # fmt: skip
"""engine -> its options; vLLM's are its own engine arguments."""


def check_options(spec: SideSpec) -> None:
    """Refuse options that the side's engine would refuse, before anything is started.

    vLLM's are known where the side runs in this interpreter and vLLM is installed in it; elsewhere
    the engine itself looks.

    Raises:
        InputError: an unknown name, or a value of another type than the default's.
    """
    if spec.engine in OPTIONS:
        _check_machine(spec, parse_options(OPTIONS[spec.engine], spec.engine, spec.args))
    elif spec.engine == "vllm" and spec.python is None:
        known = vllm_arguments()
        if known:
            check_vllm_names(spec.args, known)
    elif spec.engine == "sglang":
        check_sglang_model(spec)


def _check_machine(spec: SideSpec, options: object) -> None:
    """Refuse what this machine cannot run; another interpreter's packages are its own affair."""
    from mismatch_lab.engines.liger import check_liger
    from mismatch_lab.engines.provenance import accelerators

    if isinstance(options, FsdpOptions) and options.liger:
        on_gpu = options.device in ("auto", "cuda") and bool(accelerators())
        check_liger(on_gpu, None if spec.python is None else True)


def check_sglang_model(spec: SideSpec) -> None:
    """Refuse a model that SGLang cannot run on a CPU where no GPU is; the engine looks once more.

    Raises:
        InputError: the architecture has no code for a CPU.
    """
    from mismatch_lab.checkpoints.config import read_config_json
    from mismatch_lab.engines.provenance import accelerators
    from mismatch_lab.engines.sglang_cpu import refuse

    if not accelerators():
        refuse(read_config_json(spec.model).get("architectures"))


def check_vllm_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError for an argument that vLLM does not have, or that is ours to set."""
    known = set(known)
    for name in given:
        if name in SET_BY_US:
            raise InputError(f"--engine-arg {name} is set by an option of its own.")
        if name not in known:
            raise InputError(
                f"vLLM has no engine argument {name!r}.",
                f"{nearest(name, known)}See 'vllm serve --help'; write it with underscores.",
            )


def vllm_arguments() -> set[str]:
    """Names of vLLM's engine arguments, read from its source without importing it: that would take
    seconds. Empty where it is not installed, or keeps them elsewhere.
    """
    found = find_spec("vllm")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    files = [Path(folder) / "engine" / "arg_utils.py" for folder in folders]
    for file in (file for file in files if file.is_file()):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
                return {
                    field.target.id
                    for field in node.body
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                }
    return set()
