"""The files of a run, as typed models: unknown fields are errors, every file has a version."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

SCHEMA_VERSION = 1

Side = Literal["infer", "second", "train", "ref"]
"""`second` is the other engine of a three-way run."""
Dtype = Literal["float32", "bfloat16", "float16"]
Depth = Literal["quick", "standard", "deep"]
LogprobSpace = Literal["raw", "processed"]
Packing = Literal["none", "documents", "leaky", "leaky_restarted"]
"""How a micro-batch is laid out: padded rows; rows one after another with restarted positions, from
which transformers infers that each is blind to the others; where later rows see earlier ones, with
running positions or with restarted ones."""
Status = Literal["match", "numerics", "mismatch", "underpowered", "error"]
OptionValue = bool | int | float | str
WeightUpdate = Literal["reload_weights", "weights_iterator", "weight_transfer"]
"""How an engine is given newer weights: from a folder, from tensors in memory at once, or (vLLM) by
its weight transfer: started, sent layer by layer, finished."""


def _to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _from_json(value: Any) -> Any:
    return math.nan if value is None else value


# JSON has no NaN: "not measured" is null, and comes back as NaN. Infinities are strings.
Number = Annotated[float, BeforeValidator(_from_json), PlainSerializer(_to_json, when_used="json")]


class Strict(BaseModel):
    """Base of every model here: unknown fields are errors and instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """One side of the comparison: which program, which weights, which knobs."""

    side: Side
    engine: str
    model: str
    dtype: str
    args: dict[str, OptionValue] = {}
    plugin: str | None = None
    """`FILE.py:FUNC`, called with the side's torch module once its weights are loaded. What it
    returns is run in the module's place; vLLM keeps the one it loaded, and refuses another."""
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
    train: SideSpec
    ref: SideSpec
    prompts: list[Prompt]
    provenance: Provenance
    repeats: int = Field(default=1, ge=1)
    """How many times it is measured, each with engines started anew and another sampling seed."""

    @property
    def programs(self) -> list[SideSpec]:
        """Those that are compared: the engine, a second one where there is one, the trainer."""
        return [side for side in (self.infer, self.second, self.train) if side is not None]


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


class EstimateRecord(Strict):
    """A measured number: how many tokens it rests on, and its 95 % interval."""

    value: Number
    n: int
    n_dropped: int
    ci95: tuple[Number, Number]


Measures = dict[str, EstimateRecord]


class LayerRouting(Strict):
    """Routing agreement of one layer."""

    layer: int
    top1_agreement: EstimateRecord
    set_overlap: EstimateRecord


class RoutingFindings(Strict):
    """Do both sides pick the same experts for the same tokens?"""

    edge: str
    top1_agreement: EstimateRecord
    set_overlap: EstimateRecord
    flipped_token_share: EstimateRecord
    """Tokens for which at least one layer picked another set of experts."""
    abs_delta_flipped: EstimateRecord
    abs_delta_unflipped: EstimateRecord
    per_layer: list[LayerRouting]


class WorstRun(Strict):
    """The consecutive positions at which a module is furthest from the reference."""

    side: Literal["infer", "train"]
    """Whose error is larger there."""
    start: int
    stop: int
    """Tokens [start, stop) of the flattened rows that are predicted from there."""
    error: Number
    """Median relative error over these positions, on the engine's inputs."""
    floor: Number
    """What precision does in its own worst run."""
    diverges: bool


class ModuleError(Strict):
    """How far one module's output differs between the sides (relative Frobenius error)."""

    name: str
    """The trainer's (transformers) name."""
    kind: str
    cumulative: Number
    """Each side on its own inputs: earlier differences included."""
    isolated: Number = math.nan
    """The module of either side on the same inputs; NaN unless depth is deep."""
    infer_error: Number = math.nan
    """Engine against the fp32 reference on the engine's inputs (or cumulative, see depth)."""
    train_error: Number = math.nan
    floor: Number = math.nan
    """What this precision does to this module: reference in the dtype against reference."""
    diverges: bool
    n: int
    worst_run: WorstRun | None = None
    """None where no recorded row is as long as a run, or the version that wrote it had none."""


class NotCompared(Strict):
    """A module that was recorded, and whose two recordings cannot be held against each other."""

    name: str
    why: str


class Localisation(Strict):
    """Where the sides part."""

    depth: Depth
    method: str
    first_divergent_module: str | None
    side: Literal["infer", "train", "undecided"] | None
    per_module: list[ModuleError]
    not_compared: list[NotCompared] = []


class TypicalRatios(Strict):
    """How many times the floor each error is on the typical token (`measures.paired`)."""

    infer: EstimateRecord
    train: EstimateRecord
    decode: EstimateRecord
    edge: EstimateRecord
    second: EstimateRecord | None = None
    """Of a three-way run: as `infer`, and, as `edge`, of the second engine with either other."""
    decode_second: EstimateRecord | None = None
    second_train: EstimateRecord | None = None


class NoiseFloor(Strict):
    """What this precision does to this model, measured; mean |delta| in nats."""

    method: str
    precision: EstimateRecord
    """Reference in the sides' dtype against the reference in higher precision."""
    infer_repeat: EstimateRecord
    train_repeat: EstimateRecord
    infer_ratio: EstimateRecord
    """Engine's error against the reference, over the floor."""
    train_ratio: EstimateRecord
    edge_ratio: EstimateRecord
    """Engine against trainer, over what two independent errors of the floor's size add up to."""
    decode_ratio: EstimateRecord | None = None
    """The engine's error while sampling."""
    second_ratio: EstimateRecord | None = None
    """Of a three-way run: as `infer_ratio`, and, as `edge_ratio`, of the second engine's edges."""
    decode_second_ratio: EstimateRecord | None = None
    second_train_ratio: EstimateRecord | None = None
    typical: TypicalRatios | None = None

    def ratios(self) -> dict[str, EstimateRecord]:
        """Every error over the floor, of those measured: `infer_ratio`, …, `typical.infer`, …"""
        means = {name: getattr(self, f"{name}_ratio") for name in TypicalRatios.model_fields}
        found = {f"{name}_ratio": mean for name, mean in means.items()}
        found |= {f"typical.{name}": ratio for name, ratio in self.typical or ()}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def with_ratios(self, ratios: dict[str, EstimateRecord]) -> NoiseFloor:
        """The same with other estimates of the ratios by these names."""
        means = {name: ratio for name, ratio in ratios.items() if "." not in name}
        if self.typical is None:
            return self.model_copy(update=means)
        typical = {n.removeprefix("typical."): r for n, r in ratios.items() if "." in n}
        return self.model_copy(update={**means, "typical": self.typical.model_copy(update=typical)})


class SuppositionRecord(Strict):
    """A way of sampling otherwise than is reported, at the number under which the drawn tokens are
    likeliest.
    """

    name: str
    """A family of `measures/suppositions.py`."""
    value: Number
    """The temperature itself, top-p, …; of tokens that are never drawn, how many these are."""
    between: tuple[Number, Number]
    """Numbers under which they are nearly as likely: a 95 % interval or a wider one."""
    gain_nats: Number
    """Log-likelihood of the drawn tokens beyond that under the report."""
    held_out_nats: Number
    """The same in every second row, with a number that was chosen in the others."""
    noticed_below: Number
    """Numbers from here downwards would have been noticed; NaN if none."""
    noticed_above: Number
    """And from here upwards; of tokens that are never drawn, the expected draws of one."""


class DrawnFindings(Strict):
    """Were the sampled tokens drawn from what the engine reports?"""

    n: int
    """Tokens."""
    n_impossible: int
    """Beside these, tokens of probability 0."""
    z: Number
    """See `calibration`."""
    z_limit: Number
    """From here on the report is disproved; and from this gain on:"""
    gain_limit_nats: Number
    suppositions: list[SuppositionRecord]


class Observation(Strict):
    """One piece of evidence."""

    observation: str
    value: Number
    expected: str


class Confirmation(Strict):
    """An experiment that made the effect go away, or come back."""

    experiment: str
    before: Number
    after: Number
    by: Literal["side", "unseen rows", "record"] = "side"
    """What it was done to: the side itself, changed in one thing; rows of the run that nothing had
    been fitted on; or what was recorded, the tokens in question left out."""


class Remedy(Strict):
    """What to do about a cause."""

    id: str
    how: str


class Cause(Strict):
    """A named cause."""

    id: str
    family: str
    side: Literal["infer", "train", "sync", "both", "neither", "undecided"]
    """`undecided`: engine and transformers disagree, and nothing independent of both decides."""
    confidence: float = Field(ge=0, le=1)
    location: str | None
    evidence: list[Observation]
    confirmed_by: list[Confirmation] = []
    remedy: Remedy | None = None
    why: str = ""
    """In a sentence: what singled this cause out."""
    decides: str = ""
    """Where causes are tied: the experiment that would decide between them."""


class RuledOut(Strict):
    """A cause that was considered and does not fit."""

    id: str
    because: str


class ExperimentRecord(Strict):
    """An experiment that was run on the way to the verdict."""

    name: str
    side: Literal["infer", "train", "sync", "both", "neither"]
    cost_s: Number
    result: str


class ByHand(Strict):
    """An experiment on a server that its user has to make."""

    server_with: str
    """Flags to start it with."""
    command: str
    """To run then."""
    if_gone: str
    """What it would mean that the difference is gone, and that it stays."""
    if_it_stays: str


class Verdict(Strict):
    """The answer."""

    status: Status
    headline: str
    """One sentence with its numbers."""
    reasons: list[str]
    """How the status was reached, step by step."""
    next_command: str
    causes: list[Cause] = []
    ruled_out: list[RuledOut] = []
    experiments: list[ExperimentRecord] = []
    by_hand: list[ByHand] = []
    """What is left to try where the engine is a server, which is not changed."""


class TensorVersion(Strict):
    """Which version of one tensor a module of the engine runs with."""

    tensor: str
    """Checkpoint name; the same tensor of all experts is one, with `*` for the number."""
    module: str
    state: Literal["new", "old", "neither", "undecided", "unseen"]
    error_new: Number
    """Module's smallest isolated error against the reference with the new tensor."""
    error_old: Number
    limit: Number
    """With neither version where both errors are larger; of the two, the closer one counts."""
    change: Number
    """Relative Frobenius norm of the tensor's change."""
    rank: int | None
    """Numerical rank of the change of a matrix, where it is low; None where it is not."""


class VersionFindings(Strict):
    """What the engine runs with: the weights before an update, those after it, or others."""

    weights_before: str
    weight_update: WeightUpdate | None
    changed: int
    """Uses of tensors (a tied one has two) that the update changed."""
    counts: dict[str, int]
    """state -> uses."""
    tensors: list[TensorVersion]
    """Those that are not new."""


class ReferenceCheck(Strict):
    """Whether the reference, which is the trainer's own code, holds against a second implementation
    of the model, on the first rows of the run; mean |delta| in nats.
    """

    outcome: Literal["agrees", "contradicts", "undecided", "not defined"]
    """`contradicts`: the definition sides with the engine, and is these findings' reference."""
    why: str
    rows: int = 0
    definition_ref_nats: Number = math.nan
    definition_infer_nats: Number = math.nan
    location: str | None = None
    """The first module that transformers computes otherwise than it is defined, on equal inputs."""

    @property
    def is_open(self) -> bool:
        """Whether nothing independent says who is right."""
        return self.outcome in ("undecided", "not defined")


Program = Literal["infer", "second", "train"]


class PairOfPrograms(Strict):
    """Two of the three programs of a three-way run, over the tokens that the first sampled."""

    edge: str
    programs: tuple[Program, Program]
    state: Literal["agree", "differ", "undecided"]
    """By the limits of a verdict, which the whole 95 % interval must lie below, or beyond."""
    why: str


class ThreeWay(Strict):
    """Two engines and the trainer: which one differs from the two others, while these agree."""

    stands_alone: Program | Literal["none", "undecided"]
    why: str
    """One sentence with its numbers."""
    pairs: list[PairOfPrograms]


class OddToken(Strict):
    """One sampled token for which a side has no log-prob that is one."""

    row: int
    position: int
    """Counted from the row's first sampled token."""
    token_id: int
    text: str
    """Control characters escaped; empty where no text was recorded."""
    logp_infer: Number
    logp_train: Number


OddKind = Literal["missing", "impossible", "positive"]
"""NaN, -inf, and above 0 by more than rounding."""


class OddTokens(Strict):
    """Sampled tokens of one capture that are odd in one way, where the other side's are not."""

    capture: str
    side: Literal["infer", "train"]
    kind: OddKind
    n: int
    of: int
    """Sampled tokens."""
    n_token_ids: int
    """Different ones among them."""
    run: int = 1
    """Which of `--repeats`."""
    tokens: list[OddToken]
    """The first of them."""

    @property
    def is_whole_side(self) -> bool:
        """Whether the side has nothing else."""
        return self.n == self.of


class RepeatRecord(Strict):
    """What one of several runs measured."""

    run: int
    """From 1; the first is the one that everything else in the findings is of."""
    seed: int
    """Of the sampling."""
    status: Status
    """By its own numbers and intervals over rows; `error` where it failed."""
    headline: str
    edges: dict[str, dict[str, Number]] = {}
    """edge -> measure -> value."""
    floor_ratios: dict[str, Number] = {}
    """Field of the noise floor -> value."""


class OverRuns(Strict):
    """Several runs: mean and Student's t interval over them, `n` runs each."""

    runs: list[RepeatRecord]
    edges: dict[str, Measures]
    floor_ratios: Measures
    wider: list[str]
    """Edges and ratios whose interval over runs is wider than that over rows: it decided."""

    @property
    def failed(self) -> list[RepeatRecord]:
        """Runs that could not be measured."""
        return [run for run in self.runs if run.status == "error"]


class Findings(Strict):
    """findings.json."""

    schema_version: Literal[1] = 1
    run: str
    edges: dict[str, Measures]
    noise_floor: NoiseFloor | None
    routing: RoutingFindings | None
    localisation: Localisation | None
    calibration: EstimateRecord | None = None
    """z of sampled log-probs against the reported distribution (|z| above 4 is alarming)."""
    drawn: DrawnFindings | None = None
    """What else could have drawn the sampled tokens, and what would have been noticed."""
    over_runs: OverRuns | None = None
    """Where it was measured several times (`--repeats`)."""
    odd_tokens: list[OddTokens] = []
    """Sampled tokens whose log-prob is none on one side; they are left out of every mean."""
    weights: list[str] = []
    """Tensors whose fingerprints differ between the sides."""
    three_way: ThreeWay | None = None
    """Where a second engine scored the same tokens."""
    reference: ReferenceCheck | None = None
    """Where the engine differed from a reference that shares its code with the trainer."""
    versions: VersionFindings | None = None
    """Where the weights before an update were given (`--weights-before`)."""
    timings_s: dict[str, float] = {}
    """Stages, one after another; a name with a dot (`capture.train`) lies within one of them."""
    notes: list[str] = []
    verdict: Verdict


def write_json(path: Path, model: Strict) -> None:
    """Write a model whole or not at all."""
    write_whole(path, model.model_dump_json(indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
