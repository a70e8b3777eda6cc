"""What samples: an engine that lives as long as the run and is given new weights at every step.

Most engines are elsewhere, in a process or behind a server: what they are asked is a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.errors import few
from mismatch_lab.processes.messages import ArrayAsJson, Messages
from mismatch_lab.schema import OptionValue
from mismatch_lab.trainer.tasks.episodes import Sampled

NAN = float("nan")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Record:
    """What the engine keeps of each answer beside its log-probs."""

    routing: bool = False
    support: bool = False


@dataclass(frozen=True)
class EngineSpec:
    """How an engine is started."""

    folder: str
    """The checkpoint it starts on."""
    dtype: str
    context_length: int
    logprob_space: str
    args: dict[str, OptionValue] = field(default_factory=dict)
    fault: tuple[str, str] | None = None
    """(id, severity) of a fault that is planted in the engine's model."""
    fixes: tuple[str, ...] = ()
    """Ids of those that act in the engine's process."""
    log: str = "engine.log"
    devices: str | None = None
    """Value of CUDA_VISIBLE_DEVICES in its process; None is the trainer's own."""
    url: str = ""
    """Of the server that is to start it; else it is a child of the trainer."""


@dataclass(frozen=True)
class SamplingParams:
    """How a batch of answers is sampled."""

    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """Of the run."""
    step: int = 0
    turn: int = 0
    """Of the episodes, from 1."""
    first_row: int = 0
    """Of this request among all rows, where several engines share them."""
    record: Record = Record()

    def row_seed(self, row: int) -> int:
        """Of the `row`-th row of this request: each row of each turn of each step has its own, and
        the same one whichever engine it is asked of.
        """
        return seed_of(self.seed, self.step, self.turn, self.first_row + row)


@dataclass(frozen=True)
class Transfer:
    """What the engine holds of the weights that it was to take."""

    sent: int
    """Tensors in the folder."""
    compared: int
    """Of those, how many were held against the engine's, bit for bit."""
    stale: tuple[str, ...] = ()
    """Those that the engine holds otherwise."""
    uncompared: tuple[str, ...] = ()
    """Those of which the engine shows nothing."""
    error: str = ""
    """The engine's own, where it refused them."""

    @property
    def confirmed(self) -> bool:
        """Whether every tensor was compared and is what was sent."""
        return not (self.error or self.stale) and 0 < self.sent == self.compared

    @property
    def why_not(self) -> str:
        """In words, with the first names; empty where it is confirmed."""
        parts = [self.error] if self.error else []
        parts += [f"other values: {few(self.stale)}"] if self.stale else []
        parts += [f"not to be found: {few(self.uncompared)}"] if self.uncompared else []
        if not parts and not self.confirmed:
            parts = [f"{self.compared} of {self.sent} tensors were compared"]
        return "; ".join(parts)


@dataclass(frozen=True)
class Answer(Sampled):
    """One answer with what its fixes ask for."""

    routing: Annotated[NDArray[np.int16], ArrayAsJson()] | None = None
    """[m, L, K] experts chosen for each token of the context and the answer, as inputs; the last
    sampled token was no input, so its row is -1."""
    support: Annotated[NDArray[np.bool_], ArrayAsJson()] | None = None
    """[tokens of the answer, V] what the sampler left possible at each step."""


@dataclass(frozen=True)
class Sample:
    contexts: list[list[int]]
    max_new_tokens: list[int]
    sampling: SamplingParams


@dataclass(frozen=True)
class Answers:
    answers: list[Answer]


@dataclass(frozen=True)
class Score:
    rows: list[list[int]]
    temperature: float


@dataclass(frozen=True)
class Scores:
    """Of all tokens of each row but the first."""

    logp: list[list[float]]


@dataclass(frozen=True)
class TakeWeights:
    folder: Path


@dataclass(frozen=True)
class VerifyWeights:
    folder: Path


@dataclass(frozen=True)
class Flush:
    """See `Rollout.flush`."""


@dataclass(frozen=True)
class Restart:
    folder: Path


@dataclass(frozen=True)
class Close:
    """As `Restart`, what a server does by itself."""


Request = Sample | Score | TakeWeights | VerifyWeights | Flush
"""What is asked of an engine once it has answered its `EngineSpec` with its version."""
REQUESTS = Messages(
    EngineSpec, Sample, Answers, Score, Scores, TakeWeights, VerifyWeights, Transfer, Flush,
    Restart, Close, str, bool,
)  # fmt: skip


class Rollout:
    """An engine that is asked; one in this process does it all itself. Rank 0 alone has one."""

    version: str

    def ask(self, request: Any, wanted: type[Found]) -> Found:
        """The answer, of the type that is wanted.

        Raises:
            MismatchLabError: what the engine reported, or how it died.
        """
        raise NotImplementedError

    def sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        """One answer per context, in order."""
        return self.ask(Sample(contexts, max_new_tokens, sampling), Answers).answers

    def score(self, rows: list[list[int]], temperature: float) -> list[list[float]]:
        """Log-probs of whole rows, of two tokens up to the context's length, by the engine's
        prefill; NaN for each first token.
        """
        return [[NAN, *logp] for logp in self.ask(Score(rows, temperature), Scores).logp]

    def transfer(self, folder: Path) -> Transfer:
        """Take the weights of a checkpoint folder, in place."""
        return self.ask(TakeWeights(folder.resolve()), Transfer)

    def verify(self, folder: Path) -> Transfer:
        """Hold the engine's weights against a checkpoint folder, and give it nothing."""
        return self.ask(VerifyWeights(folder.resolve()), Transfer)

    def flush(self) -> None:
        """Forget cached prefixes."""
        self.ask(Flush(), bool)

    def restart(self, folder: Path) -> None:
        """A new engine on that folder."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the engine. A second call does nothing."""
