"""The whole plan of a run: trainer, engines (weights and cache) and host."""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.errors import InputError
from mismatch_lab.remedies import load_fixes
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.planner import device as trainer
from mismatch_lab.trainer.planner.activations import ExpertWay, Pass, expert_ways
from mismatch_lab.trainer.planner.device import GIB, Phase, Term
from mismatch_lab.trainer.planner.shapes import ModelShape, read_shape
from mismatch_lab.trainer.planting import plan_run

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Machine:
    """What the run gets."""

    ranks: int = 1
    """Of the trainer, a device each."""
    hosts: int = 1
    device: str = "cuda"

    def __post_init__(self) -> None:
        if self.ranks % self.hosts:
            raise InputError(f"{self.ranks} ranks cannot be the same number on {self.hosts} hosts.")

    @property
    def ranks_per_host(self) -> int:
        return self.ranks // self.hosts


@dataclass(frozen=True)
class MemoryPlan:
    """Expected memory; nothing of it is measured."""

    model: ModelShape
    machine: Machine
    micro_batch_tokens: int
    phases: tuple[Phase, ...]
    """Of the trainer, on each of its devices."""
    engine: Phase
    """On each device of an engine."""
    shared: bool
    """An engine runs on a device of the trainer: there both are needed."""
    host_gib: float
    """Of rank 0's process; the trainer's others hold no weights on their hosts."""
    experts: tuple[ExpertWay, ...] = ()
    """Every way to run them, the run's among them; none where no formula is known."""

    @property
    def peak(self) -> Phase:
        """The trainer's phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total_gib)

    @property
    def device_gib(self) -> float:
        """On the device that needs most."""
        both = (self.peak.total_gib, self.engine.total_gib)
        return sum(both) if self.shared else max(both)


def make_plan(config: TrainConfig, machine: Machine) -> MemoryPlan:
    """Plan a run.

    Raises:
        InputError: no config.json, an unknown architecture, or a wrong fault or fix.
    """
    config = plan_run(config).config
    fixes = load_fixes(config.fixes).memory
    shape = read_shape(config.model)
    b = NUMBER_BYTES[config.dtype]
    run = Pass(
        shape=shape,
        rows=config.optim.micro_batch,
        row_tokens=config.rollout.context_length,
        number_bytes=b,
        attention=fixes.attention or _attention(config, shape),
        experts=fixes.experts or "grouped_mm",
        checkpointed=config.optim.checkpoint_activations,
    )
    sharding = trainer.Sharding(run, machine.ranks, reference=config.loss.kl_weight > 0)
    phases = (
        trainer.load(sharding),
        trainer.head(sharding, fixes.head_copy),
        trainer.backward(sharding),
        trainer.root_backward(sharding),
        trainer.optimizer(sharding, machine.device),
    )
    args = config.rollout.args
    engine = engine_phase(
        shape,
        b,
        rows=int(args.get("max_num_seqs", MAX_NUM_SEQS)),
        row_tokens=config.rollout.context_length,
        parallel=int(args.get("tensor_parallel_size", 1)),
    )
    return MemoryPlan(
        model=shape,
        machine=machine,
        micro_batch_tokens=run.tokens,
        phases=phases,
        engine=engine,
        shared=_shared(config, machine),
        host_gib=_host_bytes(shape, b, machine) / GIB,
        experts=expert_ways(run),
    )


def _attention(config: TrainConfig, shape: ModelShape) -> str:
    """As transformers chooses: for GPT-OSS it is eager."""
    if config.attention != "auto":
        return config.attention
    return "eager" if shape.family == "gpt_oss" else "sdpa"


def _shared(config: TrainConfig, machine: Machine) -> bool:
    """Where engines are given no devices of their own, they take the trainer's first."""
    devices = {name for text in config.rollout.devices for name in text.split(",")}
    if config.rollout.engine == "vllm-server":
        return False
    own = {str(index) for index in range(machine.ranks_per_host)}
    return not devices or bool(devices & own)


def _host_bytes(shape: ModelShape, b: int, machine: Machine) -> int:
    """Rank 0 reads the whole model in float32, and later holds what is published.

    That is in the compute dtype: the last one, and the new one while it is made.
    """
    reads = machine.device == "cuda" or machine.ranks > 1
    return shape.parameters * max(4 if reads else 0, 2 * b)


MAX_NUM_SEQS = 128
"""`rollout_worker`'s own default."""


def kv_bytes_per_token(shape: ModelShape, number_bytes: int) -> int:
    """Keys and values of all layers: 2 b K L."""
    return 2 * number_bytes * shape.keys * shape.layers


def cache_bytes(shape: ModelShape, number_bytes: int, rows: int, row_tokens: int) -> int:
    """Of so many rows at their full length; a sliding layer holds its window's tokens alone."""
    of_layer = 2 * number_bytes * shape.keys
    sliding = min(row_tokens, shape.window) * shape.sliding_layers
    return rows * of_layer * (sliding + row_tokens * (shape.layers - shape.sliding_layers))


def engine_phase(
    shape: ModelShape, number_bytes: int, rows: int, row_tokens: int, parallel: int
) -> Phase:
    """Weights in the run's dtype and the cache, both over `parallel` devices.

    Key heads that are fewer than the devices are repeated on them.
    """
    split = min(parallel, shape.kv_heads)
    cache = cache_bytes(shape, number_bytes, rows, row_tokens) / split
    return Phase(
        "engine",
        (
            Term("weights", number_bytes * shape.parameters / parallel / GIB),
            Term(f"cache of {rows} rows", cache / GIB),
        ),
    )
