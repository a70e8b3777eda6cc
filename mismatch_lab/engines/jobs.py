"""What a worker process is asked to do: engines to load, and captures to make with each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mismatch_lab.processes.messages import Messages
from mismatch_lab.schema import Alteration, CapturePlan, Packing, Prompt, Sampling, SideSpec, Strict
from mismatch_lab.schema.events import Captured, Progressed, StageBegan, Started


class GenerateJob(Strict):
    """Sample completions."""

    kind: Literal["generate"] = "generate"
    id: str
    prompts: list[Prompt]
    sampling: Sampling


class ScoreJob(Strict):
    """Score the rows of an earlier capture."""

    kind: Literal["score"] = "score"
    id: str
    source: str
    """Capture whose rows are scored."""
    temperature: float = 1.0
    plan: CapturePlan = CapturePlan()
    probes: bool = False
    """Record the full vocabulary at probe positions."""
    taps: bool = False
    routing: bool = False
    draws: bool = False
    """Record how likely the sampled tokens are under other ways of sampling."""
    micro_batch: int | None = None
    train_mode: bool = False
    first_rows: int | None = None
    """Score only this many rows (self-comparisons need few)."""
    as_tapped: bool = False
    """Rows that the plan taps are scored alone, as they are where they are tapped."""
    probes_from: str | None = None
    """Capture whose probe positions and tapped rows are taken, in place of the plan's."""
    replay_from: str | None = None
    """Capture whose module inputs are fed to this side's modules."""
    routing_from: str | None = None
    """Capture whose expert choices the routers follow (transformers engines)."""
    fingerprint: bool = False
    packing: Packing | None = None
    """Overrides the engine's own (transformers engines)."""
    packs_from: str | None = None
    """Capture whose packed rows are put together again (transformers engines); a row of which it is
    not known how it lay has no log-prob."""
    alter: tuple[Alteration, ...] = ()
    """Changes to the model that hold for this job alone (transformers engines)."""


Job = Annotated[GenerateJob | ScoreJob, Field(discriminator="kind")]


class Stage(Strict):
    """One engine and its jobs, in order."""

    spec: SideSpec
    jobs: list[Job]


class WorkerTask(Strict):
    """Stages of one process, one engine after the other."""

    captures_dir: str
    stages: list[Stage]
    sources_dir: str | None = None
    """Where captures to score lie; None is `captures_dir`."""


MESSAGES = Messages(ScoreJob, StageBegan, Progressed, Started, Captured)
"""Between a worker and its program: jobs one way, what is told of them the other."""
