"""What a training run is told: one TOML file, every name checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mismatch_lab.checkpoints.config import EMBEDDED
from mismatch_lab.errors import InputError, nearest
from mismatch_lab.remedies.rollout_correction import BOUNDS, Kind
from mismatch_lab.schema import OptionValue

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Dtype = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    """Names that are not here are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Problems; see `tasks.sources.Source`."""

    source: str = "generated"
    heldout: str | None = None
    n_train: int = 4096
    n_heldout: Positive = 100
    options: dict[str, Any] = {}
    """Of the task: the fields of its class."""


class Rollout(Section):
    """How the engine samples."""

    engine: Literal["vllm", "vllm-server", "hf"] = "vllm"
    engines: Positive = 1
    """Processes of vLLM; the rows of a step are split over them, and the answers stay the same."""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each engine, such as ["2", "3"]; none: the trainer's own."""
    urls: tuple[str, ...] = ()
    """Of vllm-server: one engine each; see `rollout_server.py`."""
    prompts: Positive = 16
    """Problems of one step."""
    group: Annotated[int, Field(ge=2)] = 8
    """Answers to each of them."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Share = 1.0
    new_tokens: Positive | None = None
    """Room of one answer; None is the task's own choice."""
    context_length: Positive = 512
    logprob_space: Literal["processed", "raw"] = "processed"
    """After temperature and truncation, or before: vLLM's own default is raw."""
    flush_cache: bool = True
    """Forget cached prefixes after each transfer of weights."""
    args: dict[str, OptionValue] = {}
    """The engine's own arguments, by its names; not those that a setting of ours gives it."""

    @model_validator(mode="after")
    def _arguments_are_its_own(self) -> Rollout:
        for name, ours in (("max_model_len", "context_length"), ("logprobs_mode", "logprob_space")):
            if name in self.args:
                raise ValueError(f"args.{name} is set by rollout.{ours}")
        return self

    @model_validator(mode="after")
    def _engines_can_be_had(self) -> Rollout:
        if self.engine == "hf" and self.engines > 1:
            raise ValueError("engine hf is one; several engines are vLLM's")
        if bool(self.urls) != (self.engine == "vllm-server"):
            raise ValueError("urls are for engine vllm-server, which needs them")
        if self.urls and (self.engines > 1 or self.devices):
            raise ValueError("engines and devices are of engine vllm; a server is one engine")
        if self.devices and len(self.devices) != self.engines:
            raise ValueError(f"devices are {len(self.devices)} for engines = {self.engines}")
        return self


class Optim(Section):
    """AdamW without weight decay, on FSDP2's shards."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 3
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    grad_norm_max: Annotated[float, Field(gt=0)] = 1.0
    micro_batch: Positive = 32
    """Rows of one forward and backward; gradients add up over the micro-batches of an update."""
    checkpoint_activations: bool = False
    """Layers keep their input alone and are computed again in backward: memory for time."""
    updates: Positive = 1
    """Optimizer steps on one batch of roll-outs; from the second on it is off-policy."""


class Loss(Section):
    """GRPO; see `grpo.py` for the formulas."""

    advantage: Literal["mean-std", "mean"] = "mean-std"
    clip_low: Share = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    mean: Literal["token", "sequence"] = "token"
    kl_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of a penalty against the model as it was at the start; 0 needs no second model."""
    kl: Literal["k3", "k2"] = "k3"
    """The penalty. `k3` is GRPO's as published: its gradient is that of KL(start || policy), and no
    token is reweighed. `k2` has the gradient of KL(policy || start), its tokens weighed as
    those of the policy's loss are (`loss_ratio.py`), before the clip."""
    old: Literal["scored", "infer"] = "scored"
    """Denominator of the clipped ratio: the trainer's scoring pass, or what the engine returned;
    with which fixes, says `loss_ratio.py`."""
    truncated: Literal["count", "mask"] = "count"
    """Answers that ran out of room: `mask` takes them out of the loss and its denominator, not out
    of their group's mean (DAPO's overlong filtering, https://arxiv.org/abs/2503.14476, 3.4)."""


class Correction(Section):
    """Rollout correction; see `remedies/rollout_correction.py`. Used by the fix of that name."""

    kind: Kind = "truncate"
    level: Literal["token", "sequence"] | None = None
    """What is weighed; None: sequences by `geometric`, tokens by the others."""
    low: Annotated[float, Field(ge=0)] | None = None
    high: Annotated[float, Field(gt=0)] | None = None
    """Bounds; None: the published ones of this kind."""

    @property
    def by_sequence(self) -> bool:
        """Whether the tokens of a sequence share one weight."""
        return self.kind == "geometric" or self.level == "sequence"

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high)"""
        low, high = BOUNDS[self.kind]
        return low if self.low is None else self.low, high if self.high is None else self.high

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Correction:
        if (self.kind, self.level) in (("icepop", "sequence"), ("geometric", "token")):
            raise ValueError(f"{self.kind} is not by {self.level}")
        if self.kind == "truncate" and self.low is not None:
            raise ValueError("truncate has no lower bound")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"no ratio lies between the bounds {self.bounds}")
        return self


class TrainConfig(Section):
    """One run. What is not given has the value below, which suits the embedded model."""

    task: str = "gsm8k"
    model: str = EMBEDDED
    dtype: Dtype = "float32"
    """Of both sides' computation; the trainer's weights are held in float32."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Positive = 24
    eval_every: Annotated[int, Field(ge=0)] = 6
    """Greedy reward on held-out problems before every so many steps; always before the first and
    after the last."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 10
    """0: none."""
    tensorboard: bool = False
    """Metrics also as event files, in `tensorboard/` of the run."""
    attention: str = "auto"
    """The trainer's attention implementation, by transformers' name."""
    fixes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """NAME or NAME:SEVERITY (plain, medium, slight)."""
    data: Data = Data()
    rollout: Rollout = Rollout()
    optim: Optim = Optim()
    loss: Loss = Loss()
    correction: Correction = Correction()


def read_config(file: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """The file's values with `overrides` over them; keys of sections are dotted (`optim.lr`).

    Raises:
        InputError: no such file, not TOML, an unknown name or a wrong value.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"Config {file} cannot be read: {error}") from error
    for dotted, value in overrides.items():
        _put(values, dotted.split("."), value)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise _wrong_setting(error) from error


def _wrong_setting(error: ValidationError) -> InputError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] != "extra_forbidden":
        return InputError(
            f"Config: {name}: {first['msg']}.", "See `mismatch-lab train --help` and examples/."
        )
    section: type[BaseModel] = TrainConfig
    for part in path[:-1]:
        section = type(section.model_fields[part].default)
    known = ", ".join(section.model_fields)
    return InputError(
        f"Config: {name} is no setting.",
        f"{nearest(path[-1], section.model_fields)}There are: {known}.",
    )


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise InputError(f"Config: {name} is a value, not a section.")
    values[path[-1]] = value
