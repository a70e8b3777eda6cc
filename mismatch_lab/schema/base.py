"""What every file of a run is made of: strict models, numbers that JSON can hold, whole files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

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


def write_json(path: Path, model: Strict) -> None:
    """Write a model whole or not at all."""
    write_whole(path, model.model_dump_json(indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
