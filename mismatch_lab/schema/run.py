"""What is asked of a run, and what says of a capture how it was made: run.json, manifest.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mismatch_lab.schema.base import Depth, LogprobSpace, OptionValue, Side, Strict, WeightUpdate


class Sampling(Strict):
    """How the engine samples."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=64, ge=1)
    seed: int = 0


class Prompt(Strict):
    """One prompt: `messages` for the chat template, `text` as it stands, or token ids."""

    id: str
    origin: str = ""
    """Where it comes from, with its licence."""
    messages: list[dict[str, str]] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    follow_ups: list[str] = []
    """User turns that follow the model's answers, one after another (multi-turn probes)."""

    @model_validator(mode="after")
    def _exactly_one_form(self) -> Prompt:
        given = [f for f in ("messages", "text", "token_ids") if getattr(self, f) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of messages, text, token_ids (got {given})")
        if self.messages is not None:
            for message in self.messages:
                if set(message) != {"role", "content"}:
                    raise ValueError(f"a message holds role and content, not {sorted(message)}")
        return self


class PromptSource(Strict):
    """Where a probe's prompts come from."""

    set: str
    """File name under `probes/prompts/`."""
    count: int = Field(ge=1)
    """How many of them, from the first on."""
    shots: int = Field(default=0, ge=0)
    """Long-context probes: this many further questions of the set stand before each prompt."""


class CapturePlan(Strict):
    """What is recorded beside the log-probs of sampled tokens."""

    probe_positions: int = Field(default=64, ge=0)
    """Positions with the full vocabulary, spread over all sampled tokens."""
    tap_rows: int = Field(default=2, ge=1)
    """Whole sequences whose hidden states are recorded at depth standard and deeper."""
    tap_tokens: int = Field(default=256, ge=2)
    """At most this many tokens of each tap row, from its start (hidden states are large). Rows no
    longer than that are taken first: they are recorded with their answers."""
    routing: bool = True
    """Record router choices where the model has routers."""


class Limits(Strict):
    """When a difference counts, each with its reason in the probe's `why`."""

    match_abs_delta_nats: float = Field(default=1e-4, gt=0)
    """Below this mean |delta| the two sides are the same policy."""
    floor_ratio: float = Field(default=2.5, gt=1)
    """A side (or edge) leaves the floor when its error is this many times what precision does."""
    floor_typical_ratio: float = Field(default=2.0, gt=1)
    """The same on the typical token (`measures.paired`)."""
    module_floor_ratio: float = Field(default=3.0, gt=1)
    """The same for one module's isolated error."""
    min_tokens: int = Field(default=256, ge=1)
    """Fewer sampled tokens than this: underpowered."""
    min_rows: int = Field(default=4, ge=2)
    """Fewer sequences than this: underpowered, since intervals come from whole sequences."""


class Probe(Strict):
    """A probe: prompts, sampling, what to record, limits. One TOML file each."""

    schema_version: Literal[1] = 1
    name: str
    title: str
    why: str
    depth: Depth = "quick"
    prompts: PromptSource
    sampling: Sampling = Sampling()
    capture: CapturePlan = CapturePlan()
    limits: Limits = Limits()
    limits_reason: str


class Alteration(Strict):
    """One deliberate change to a transformers model: a suspected defect, planted in the reference
    to see whether it then disagrees as the suspect does. Names: `engines/alterations`.
    """

    name: str
    value: OptionValue | None = None
    """What the alteration needs: a factor, a width, a dtype, a path."""
    layers: tuple[int, ...] | None = None
    """Only these decoder layers; None is all that have the part."""
    tensors: tuple[str, ...] | None = None
    """Checkpoint names, for alterations that replace weights."""


class SideSpec(Strict):
    """One side of the comparison: which program, which weights, which settings."""

    side: Side
    engine: str
    model: str
    dtype: str
    args: dict[str, OptionValue] = {}
    plugin: str | None = None
    """`FILE.py:FUNC`, called with the side's torch module once its weights are loaded. What it
    returns is run in the module's place; vLLM keeps the one it loaded, and refuses another."""
    program: str | None = None
    """`FILE.py:FUNC` that is the trainer itself (engine function)."""
    python: str | None = None
    """Interpreter of the side's process; None is the one mismatch-lab runs in."""
    trust_remote_code: bool = False
    urls: tuple[str, ...] = ()
    """Servers that run already and share the work (engine http)."""
    stock: tuple[str, ...] = ()
    """Modules (`*` stands for any part of a name; `config` for the configuration) that are put back
    as the checkpoint has them after the plugin ran (transformers engines): a repair on trial."""
    no_dropout: bool = False
    """Dropout passes everything through (transformers engines): a repair on trial."""
    weights_before: str | None = None
    """Checkpoint folder from before the last weight update."""
    weight_update: WeightUpdate | None = None
    """Start on `weights_before` and update to `model` through the engine's own path; None loads
    `model` as ever."""
    resync: tuple[str, ...] = ()
    """Checkpoint names of tensors that are loaded from `model` again after the plugin ran: a repair
    on trial."""


class MappedOption(Strict):
    """One option of a file that configures an engine."""

    source: str
    """Its name in the file; of what a framework always sets, the framework's."""
    target: str
    """The engine's argument, or the sampling option."""
    value: OptionValue


class LeftOption(Strict):
    """An option of such a file that is no matter to log-probs."""

    source: str
    why: str


class EngineConfig(Strict):
    """What `--engine-config` said of the engine that samples."""

    file: str
    kind: str
    """Whose file it is: vllm, sglang or a framework."""
    engine: str
    mapped: list[MappedOption]
    left: list[LeftOption]


class Provenance(Strict):
    """What ran where."""

    created: str
    command: list[str]
    host: str
    cpu: str
    cpu_count: int
    python: str
    packages: dict[str, str]
    accelerators: list[str] = []


class RunSpec(Strict):
    """run.json: what was asked, resolved."""

    schema_version: Literal[1] = 1
    id: str
    probe: Probe
    depth: Depth
    infer: SideSpec
    """The engine as configured: its log-probs are what RL sees."""
    infer_eager: SideSpec | None = None
    """The same engine started once more so that its modules can be hooked; None where the one as
    configured can be."""
    engine_config: EngineConfig | None = None
    """The file that configures it, where one was given."""
    second: SideSpec | None = None
    """Another engine, as configured: it scores the tokens that the first one sampled."""
    rescored: SideSpec | None = None
    """Of a record: an engine that scores its tokens again, as `prefill`."""
    train: SideSpec
    ref: SideSpec
    modules_from: tuple[str, ...] = ()
    """Of a record: captures that hold hidden states of a side's modules."""
    inputs_from: tuple[str, ...] = ()
    """Those of them that hold what the modules were fed, which the reference's then are too."""
    prompts: list[Prompt]
    provenance: Provenance
    repeats: int = Field(default=1, ge=1)
    """How many times it is measured, each with engines started anew and another sampling seed."""

    @property
    def programs(self) -> list[SideSpec]:
        """Those that are compared: the engine, others where there are any, the trainer."""
        sides = (self.infer, self.rescored, self.second, self.train)
        return [side for side in sides if side is not None]


class Manifest(Strict):
    """manifest.json of a capture."""

    schema_version: Literal[1] = 1
    id: str
    side: Side
    engine: str
    engine_version: str
    model: str
    dtype: str
    sampling: Sampling | None
    """None where nothing was sampled (a scoring pass)."""
    logprob_space: LogprobSpace
    patched: list[str]
    """Every deviation from the stock program: plugins, wrapped functions."""
    options: dict[str, OptionValue] = {}
    host: str
    packages: dict[str, str]
    rows: int
    tokens: int
    wall_s: float
    arrays_sha256: str
    notes: list[str] = []
