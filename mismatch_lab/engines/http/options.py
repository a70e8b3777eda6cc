"""Options of the engine `http`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mismatch_lab.errors import InputError

MOST_AT_ONCE = 256


@dataclass(frozen=True)
class HttpOptions:
    """How the servers are asked."""

    concurrency: int = 8
    """Requests at a time, of each server."""
    timeout_s: float = 600.0
    """Seconds for one request, with all its tries."""
    checksum: bool = False
    """Compare a checksum of the weights before and after each pass: the server computes it, which
    takes as long as reading all weights. vLLM has it with VLLM_SERVER_DEV_MODE=1."""
    served_model: str = ""
    """Name of the model on a server that serves several."""

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST_AT_ONCE:
            raise InputError(f"Option concurrency of engine http: 1 to {MOST_AT_ONCE}.")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise InputError("Option timeout_s of engine http is a number of seconds above 0.")
