"""A hypothesis: a named defect, written as something that can be done to a sound program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mismatch_lab.schema import Alteration, OptionValue, Packing

Suspect = Literal["decode", "infer", "train"]
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
class Search:
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
    search: Search | None = None
    location: str | None = None
    """Where it acts: a module or tensor."""
    part: str | None = None
    """Submodule of every layer it acts on (`self_attn`): lets single layers be tried."""
    fitted: int = 0
    """Numbers fitted to the data: of two that explain alike, the one with fewer is preferred."""

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
