"""What an engine returns of one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.processes.messages import ArrayAsJson
from mismatch_lab.trainer.tasks.episodes import Sampled


@dataclass(frozen=True)
class Answer(Sampled):
    """One answer with what its fixes ask for."""

    routing: Annotated[NDArray[np.int16], ArrayAsJson()] | None = None
    """[m, L, K] experts chosen for each token of the context and the answer, as inputs; the last
    sampled token was no input, so its row is -1."""
    support: Annotated[NDArray[np.bool_], ArrayAsJson()] | None = None
    """[tokens of the answer, V] what the sampler left possible at each step."""
