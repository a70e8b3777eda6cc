"""Arrays in the JSON between the trainer and its engine."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(array: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def decode(value: dict[str, Any]) -> NDArray[Any]:
    """What `encode` made."""
    raw = base64.b64decode(value["data"])
    return np.frombuffer(raw, value["dtype"]).reshape(value["shape"])
