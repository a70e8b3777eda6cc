"""Hypotheses: named defects, written as something that can be done to a sound program; and the
features of a suspect that decide which of them are worth a try.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from mismatch_lab.schema import Alteration, OptionValue, Packing, Sampling

SuspectName = Literal["decode", "infer", "train"]
"""Whose log-probs are in doubt: the engine's while sampling, its re-scoring, the trainer's."""


Spans = tuple[tuple[int, int], ...]
"""Token ids, as half-open ranges."""


@dataclass(frozen=True)
class RowChange:
    """A change to distributions: a row of ROW_CHANGES and its number, or a row of ID_CHANGES and
    the entries of the vocabulary that it concerns.
    """

    name: str
    value: float = 0.0
    choices: tuple[Spans, ...] = ()

    @property
    def ids(self) -> Spans:
        """The entries that it concerns: those of the choice that the number stands for."""
        return self.choices[int(self.value)] if self.choices else ()


@dataclass(frozen=True)
class TokenChange:
    """A change to log-probs of tokens: a row of TOKEN_CHANGES and its number."""

    name: str
    value: float = 0.0


@dataclass(frozen=True)
class FreeNumber:
    """The one free number of a hypothesis: where to begin, and whether to refine between."""

    grid: tuple[float, ...]
    refine: Literal["no", "linear", "log", "integer"] = "no"


@dataclass(frozen=True)
class Hypothesis:
    """One cause with one way of bringing it about in the reference."""

    cause: str
    label: str
    """What is supposed, for people: "attention sinks take no weight"."""
    model: tuple[Alteration, ...] = ()
    rows: tuple[RowChange, ...] = ()
    tokens: tuple[TokenChange, ...] = ()
    packing: Packing | None = None
    search: FreeNumber | None = None
    location: str | None = None
    """Where it acts: a module or tensor."""
    part: str | None = None
    """Submodule of every layer it acts on (`self_attn`): lets single layers be tried."""
    fitted: int = 0
    """Numbers fitted to the data: of two that explain alike, the one with fewer is preferred."""
    replaces: bool = False
    """Whether it puts another number in the place of a log-prob: a token carries that one or its
    own, and nothing between."""
    same_in_record: tuple[str, ...] = ()
    """Other causes of which a record without a re-scoring would hold the very same."""
    of_delivery: bool = False
    """Whether what is wrong with an engine that does so is the delivery of its weights (side
    `sync`), and not the engine."""

    def acts_in(self, part: str) -> bool:
        """Whether `part` of a layer, or what it is a part of, is where it acts."""
        own, other = f"{self.part}.", f"{part}."
        return bool(self.part and part) and (own.startswith(other) or other.startswith(own))

    def at(self, value: float) -> Hypothesis:
        """The hypothesis with its free number set."""
        if self.rows:
            return replace(self, rows=(*self.rows[:-1], replace(self.rows[-1], value=value)))
        if self.tokens:
            return replace(self, tokens=(*self.tokens[:-1], replace(self.tokens[-1], value=value)))
        whole = self.search is not None and self.search.refine == "integer"
        given: OptionValue = round(value) if whole else value
        last = self.model[-1].model_copy(update={"value": given})
        return replace(self, model=(*self.model[:-1], last))

    def in_layers(self, layers: tuple[int, ...]) -> Hypothesis:
        """The hypothesis for some decoder layers only."""
        return replace(
            self,
            model=tuple(a.model_copy(update={"layers": layers}) for a in self.model),
            label=f"{self.label}, in layer {', '.join(map(str, layers))}",
            location=f"model.layers.{min(layers)}.{self.part}" if self.part else self.location,
            fitted=self.fitted + len(layers),
        )

    @property
    def value(self) -> OptionValue | None:
        """The number it stands at, if it has one."""
        if self.search is None:
            return None
        last = (self.rows or self.tokens or self.model)[-1]
        return last.value


Explanation = tuple[Hypothesis, ...]
"""Defects that hold together; the empty one is a sound program."""


@dataclass(frozen=True)
class Features:
    """One suspect and its circumstances."""

    suspect: SuspectName
    config: dict[str, Any]
    """config.json of the language model."""
    sampling: Sampling
    weights_before: str | None = None
    changed: tuple[str, ...] = ()
    """Tensors that the last update changed."""
    low_rank: tuple[str, ...] = ()
    """Those of them that it changed by a low rank, as an adapter does."""
    first_wrong: int | None = None
    """The first layer that leaves its floor, where modules were recorded."""
    first_wrong_part: str = ""
    """What of that layer leaves it (`self_attn`), where that is known."""
    dtype: str | None = None
    """The suspect's, where it is known."""
    packed: bool = False
    """Whether sequences of the trainer are known to have lain behind others in one row."""
    raises_only: bool = True
    """Whether hardly any log-prob is clearly below the sound one's: a sum of fewer terms raises
    every log-prob."""
    impossible: bool = False
    """Whether tokens that were sampled have probability 0."""
    masked: tuple[tuple[int, int], ...] = ()
    """Entries of the vocabulary that have probability 0 wherever distributions were recorded."""
    tensors: tuple[str, ...] | None = None
    """Names of the checkpoint's tensors; None where they are not known."""
    rescored: bool = True
    """Whether the engine scored its tokens again; in a record without that, what it returned while
    sampling stands for both."""

    replays_graphs: bool = True
    """Whether the engine may have sampled by captured graphs; False where it said it did not."""

    @property
    def of_sampling(self) -> bool:
        """Whether the engine returned these log-probs while it sampled."""
        return self.suspect == "decode" or (self.suspect == "infer" and not self.rescored)

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return int(self.config.get("num_hidden_layers", 0))

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return any("expert" in key and value for key, value in self.config.items())

    def has_tensor(self, leaf: str) -> bool:
        """Whether some module of the checkpoint has a tensor of this name; where names are not
        known, it may have one.
        """
        return self.tensors is None or any(n.rpartition(".")[2] == leaf for n in self.tensors)

    def first_layer(self, kind: str | None = None) -> int:
        """The first layer whose attention is of this kind; 0 where the config does not say."""
        kinds = self.config.get("layer_types") or []
        return kinds.index(kind) if kind in kinds else 0
