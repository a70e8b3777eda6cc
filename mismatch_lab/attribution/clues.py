"""What is known of a run before any experiment: it decides which hypotheses are worth a try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mismatch_lab.attribution.hypotheses import Suspect
from mismatch_lab.schema import Sampling


@dataclass(frozen=True)
class Clues:
    """One suspect and its circumstances."""

    suspect: Suspect
    config: dict[str, Any]
    """config.json of the language model."""
    sampling: Sampling
    terminal_value: float | None = None
    """What the suspect says of the last token of every row, if it is always the same."""
    weights_before: str | None = None
    changed: tuple[str, ...] = ()
    """Tensors that the last update changed."""
    low_rank: tuple[str, ...] = ()
    """Those of them that it changed by a low rank, as an adapter does."""
    first_wrong: int | None = None
    """The first layer that leaves its floor, where modules were recorded."""
    dtype: str | None = None
    """The suspect's, where it is known."""
    micro_batch: int = 1
    """Rows per forward of the suspect, where it is the trainer."""
    raises_only: bool = True
    """Whether hardly any log-prob is clearly below the sound one's: a sum of fewer terms raises
    every log-prob."""
    impossible: bool = False
    """Whether tokens that were sampled have probability 0."""
    masked: tuple[tuple[int, int], ...] = ()
    """Entries of the vocabulary that have probability 0 wherever distributions were recorded."""
    tensors: tuple[str, ...] | None = None
    """Names of the checkpoint's tensors; None where they are not known."""

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
