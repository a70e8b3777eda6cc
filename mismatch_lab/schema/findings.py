"""findings.json: what was measured, and what it comes to."""

from __future__ import annotations

import math
from typing import Any, Literal

from mismatch_lab.schema.base import Depth, Number, Status, Strict, WeightUpdate
from mismatch_lab.schema.verdict import Verdict


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


class LagRecord(Strict):
    """Rows that the engine sampled with weights so many versions before those of the trainer."""

    lag: int
    rows: int
    abs_delta_mean: EstimateRecord
    """Of their tokens, in nats."""


class MaskRecord(Strict):
    """What the loss mask leaves out of the sampled tokens: mean |delta| there, and in the rest."""

    rows: int
    """Of which no token counts."""
    left_out: EstimateRecord
    in_loss: EstimateRecord
    hides: bool
    """Whether what is left out is worse, beyond both intervals."""


class RecordFindings(Strict):
    """What a record says of itself, before its log-probs are compared."""

    rows: int
    compared_rows: int
    """The rest: what all edges are of."""
    repeated_rows: int
    """There again to the last bit, ids and both sides' log-probs."""
    copied_rows: int
    """In which both sides have the same log-probs to the last bit, while others differ."""
    copied_tokens: int
    equal_elsewhere: Number
    """Share of tokens equal to the last bit in the other rows; see `findings/record.py`."""
    stale_rows: int
    """At a larger lag than the smallest, or of an unknown one."""
    behind: Literal["trainer", "newest"] | None = None
    """What lags are counted from: the trainer's version, or the newest of the engine's."""
    lags: list[LagRecord] = []
    grows: bool = False
    """Whether mean |delta| is larger at the largest lag than at the smallest, beyond intervals."""
    mask: MaskRecord | None = None


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
    """Of both sides; of a record that has one side's, of that one with the reference."""
    routing_of_sides: list[RoutingFindings] = []
    """Of each side with the reference, where both recorded it."""
    localisation: Localisation | None
    calibration: EstimateRecord | None = None
    """z of sampled log-probs against the reported distribution (|z| above 4 is alarming)."""
    drawn: DrawnFindings | None = None
    """What else could have drawn the sampled tokens, and what would have been noticed."""
    over_runs: OverRuns | None = None
    """Where it was measured several times (`--repeats`)."""
    odd_tokens: list[OddTokens] = []
    """Sampled tokens whose log-prob is none on one side; they are left out of every mean."""
    record: RecordFindings | None = None
    """Of log-probs that were recorded elsewhere, what they say of themselves."""
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

    def to_pandas(self) -> dict[str, Any]:
        """DataFrames by name: `edges` (edge, measure, value, n, low, high), `causes`, `modules` and
        `routing` (a layer each); empty where nothing was measured.

        Raises:
            ImportError: pandas is not installed (`pip install 'mismatch-lab[frames]'`).
        """
        import pandas as pd

        edges = [
            {"edge": edge, "measure": measure, **_flat(estimate)}
            for edge, measures in self.edges.items()
            for measure, estimate in measures.items()
        ]
        causes = self.verdict.causes
        modules = self.localisation.per_module if self.localisation is not None else []
        layers = self.routing.per_layer if self.routing is not None else []
        named = ("id", "side", "location", "confidence", "why")
        return {
            "edges": pd.DataFrame(edges),
            "causes": pd.DataFrame([c.model_dump(include=set(named)) for c in causes]),
            "modules": pd.DataFrame([m.model_dump(exclude={"worst_run"}) for m in modules]),
            "routing": pd.DataFrame(
                [{"layer": at.layer, **_flat(at.set_overlap)} for at in layers]
            ),
        }


def _flat(estimate: EstimateRecord) -> dict[str, float]:
    low, high = estimate.ci95
    return {"value": estimate.value, "n": estimate.n, "low": low, "high": high}
