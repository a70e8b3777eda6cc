"""What every engine offers: load, sample, score, fingerprint. None computes a measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Float32, Int64, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.schema import Alteration, OptionValue, Packing, Prompt, Sampling, SideSpec

Progress = Callable[[int, int], None]
"""Called with (done, total) while an engine works."""


@dataclass(frozen=True)
class ScoreRequest:
    """What to record while scoring rows."""

    temperature: float = 1.0
    """Logits are divided by it before the log-softmax, as RL trainers do."""
    probe_positions: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P] flat token indices that get the full vocabulary."""
    routing: bool = False
    draws: bool = False
    """Record how likely the sampled tokens are under other ways of sampling (`captures/draws.py`);
    the numpy engine does not."""
    tap_rows: tuple[int, ...] = ()
    """Rows whose hidden states are recorded, at their probe positions; their probe positions run
    without a gap from the second token on."""
    alone_rows: tuple[int, ...] = ()
    """Rows that get a forward of their own, as tap rows do (transformers engines)."""
    micro_batch: int | None = None
    """Sequences per forward; None is the engine's own choice."""
    train_mode: bool = False
    """Score in training mode (dropout and all), not in evaluation mode."""
    replay: dict[str, Float32] | None = None
    """Module inputs of another side at the probe positions, `NAME:in` -> [P, D]: in the tap rows
    each module is fed these instead of its own input, so that its error stands alone."""
    routing_replay: NDArray[np.int16] | None = None
    """[T, L, K] experts that routers choose in place of their own; -1 leaves a choice to them."""
    packing: Packing | None = None
    """Rows of a micro-batch one after another in one sequence; None is the engine's own choice."""
    packs: tuple[tuple[int, ...], ...] = ()
    """Rows of one forward each, in order, in place of micro-batches; a row of none has its own."""
    alter: tuple[Alteration, ...] = ()
    """Changes to the model for the length of this request."""


class Engine(Protocol):
    """One side's program with the weights loaded. Made by `ENGINES[name](spec)`.

    Raises (on construction):
        InputError: unknown option, no such checkpoint, unsupported architecture.
        MissingDependencyError: the program is not installed.
        EngineError: it could not start (memory, driver, …).
    """

    version: str
    logprob_space: str
    patched: list[str]
    """Every deviation from the stock program, for the manifest."""
    options: dict[str, OptionValue]
    """The options in force."""
    context_length: int

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """Sample completions; `logp` holds what the program returned for the sampled tokens."""
        ...

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """Score given tokens in one forward pass per sequence; `logp` holds all but firsts."""
        ...

    def fingerprint(self) -> dict[str, Fingerprint]:
        """Of each weight under its checkpoint name; fused ones by part, or under the fused name."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


ENGINES = {
    "vllm": "mismatch_lab.engines.vllm:VllmEngine",
    "sglang": "mismatch_lab.engines.sglang:SglangEngine",
    "fsdp": "mismatch_lab.engines.fsdp:FsdpEngine",
    "hf": "mismatch_lab.engines.hf:HfEngine",
    "definition": "mismatch_lab.engines.definition:DefinitionEngine",
    "http": "mismatch_lab.engines.http.engine:HttpEngine",
    "function": "mismatch_lab.engines.function:FunctionEngine",
    "trl": "mismatch_lab.engines.trl:TrlEngine",
    "verl": "mismatch_lab.engines.verl:VerlEngine",
    "fake": "mismatch_lab.engines.fake:FakeEngine",
}
"""name -> class. Adding an engine is one module and one row here (and the contract suite)."""

ENGINE_ABOUT = {
    "vllm": "vLLM in a process of its own: sampling, prefill re-scoring, hooks",
    "sglang": "SGLang in an interpreter of its own: sampling, prefill re-scoring, hooks",
    "fsdp": "PyTorch FSDP2 under torchrun: the trainer",
    "hf": "transformers in one process: engine or trainer, and the fp32 reference",
    "definition": "the architecture written once more in this package, apart from transformers",
    "http": "a server of vLLM or SGLang that runs already, asked and left as it is (--engine-url)",
    "function": "a trainer of your own: --trainer FILE.py:FUNC, a function that scores token ids",
    "trl": "TRL's own GRPOTrainer computes the log-probs: a trainer",
    "verl": "verl's own FSDP actor computes the log-probs, in an interpreter of its own: a trainer",
    "fake": "numpy model with plantable defects, for tests of the tool itself",
}


CACHED_TOKENS = "cached_prefix_tokens"
"""Option in a sampling capture's manifest: per request, tokens that came from the prefix cache."""

WEIGHT_VERSIONS = "weight_versions_infer"
"""In a manifest's options: versions of the engine's weights, a word a row; where one row has
several, in the order in which they sampled, with commas; - where it has none."""

UPDATING_ENGINES = ("vllm", "sglang")
"""Engines that can be given new weights while they run (`SideSpec.weight_update`)."""

RECORDED = "recorded"
"""In place of a program: what it said was recorded by somebody, and cannot be asked for again."""

FUNCTION = "function"
AS_THEY_ARE = (FUNCTION, "trl", "verl")
"""Trainers that are somebody's own code: run as they are, and never changed."""

BLACK_BOXES = ("http", RECORDED)
"""Engines whose modules nobody sees: nothing is replayed on their inputs."""

ENGINE_EXTRAS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "http": "train",
    "fsdp": "train",
    "hf": "train",
    "definition": "train",
    "trl": "trl",
}
"""name -> extra of this package that installs what the engine needs."""


def worker_processes(spec: SideSpec) -> int:
    """How many processes the side's worker runs in (torchrun ranks)."""
    world = spec.args.get("world_size", 1)
    return int(world) if spec.engine == "fsdp" else 1
