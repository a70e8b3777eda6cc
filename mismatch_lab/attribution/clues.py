"""What is known of a run before any experiment: it decides which hypotheses are worth a try."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mismatch_lab.attribution.hypotheses import Suspect
from mismatch_lab.engines.checkpoint import locate, read_config_json
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

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return int(self.config.get("num_hidden_layers", 0))

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return any("expert" in key and value for key, value in self.config.items())

    def first_layer(self, kind: str | None = None) -> int:
        """The first layer whose attention is of this kind; 0 where the config does not say."""
        kinds = self.config.get("layer_types") or []
        return kinds.index(kind) if kind in kinds else 0


def read_config(model: str) -> dict[str, Any]:
    """config.json of a checkpoint, its language model's part; empty where there is none."""
    if not (Path(locate(model)) / "config.json").is_file():
        return {}
    config = read_config_json(model)
    text = config.get("text_config")
    return text if isinstance(text, dict) else config
