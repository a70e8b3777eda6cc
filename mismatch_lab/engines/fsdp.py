"""The trainer: FSDP2 `fully_shard` over the ranks of torchrun, gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.captures.structure import decoder_layers
from mismatch_lab.engines.assemble import RowRecord
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.liger import apply_liger, check_liger
from mismatch_lab.engines.options import FsdpOptions, TorchOptions, parse_options
from mismatch_lab.engines.sharded_load import fill
from mismatch_lab.engines.torch_engine import TorchEngine
from mismatch_lab.engines.torch_model import DTYPES, empty_model, pick_device
from mismatch_lab.errors import InputError
from mismatch_lab.schema import Prompt, Sampling, SideSpec

HALF = ("bfloat16", "float16")
"""Dtypes that autocast computes in; in others it does nothing."""


class FsdpEngine(TorchEngine):
    """Each layer and the model are sharded; rows are spread over the ranks and gathered."""

    def __init__(self, spec: SideSpec) -> None:
        options = parse_options(FsdpOptions, "fsdp", spec.args)
        if options.liger:
            check_liger(pick_device(options.device).type == "cuda")
        self._started_group = not dist.is_initialized()
        if self._started_group:
            _start_process_group(options)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._whole: nn.Module | None = None
        super().__init__(spec, options)
        self.scorer.gradients = options.gradient_checkpointing
        self._autocast = options.autocast and spec.dtype in HALF
        self.options |= {
            name: spec.dtype if getattr(options, name) == "auto" else getattr(options, name)
            for name in ("param_dtype", "master_dtype")
        }

    def load(self, options: TorchOptions) -> nn.Module:
        """The checkpoint; of several ranks the first reads it, and each has but the modules.

        A plugin gets the whole model on each.
        """
        if self.world == 1 or self.changes_model:
            return super().load(options)
        if self.rank == 0:
            self._whole = super().load(options)
        return empty_model(self.spec, options, self.load_dtype(options))

    def fingerprint_of(self, model: nn.Module) -> dict[str, Fingerprint]:
        """Those of the checkpoint, on the rank that reads it."""
        if not _is_empty(model):
            return super().fingerprint_of(model)
        return {} if self._whole is None else super().fingerprint_of(self._whole)

    def load_dtype(self, options: TorchOptions) -> torch.dtype:
        """Dtype of the master weights."""
        return (
            _dtype(options.master_dtype, self.spec)
            if isinstance(options, FsdpOptions)
            else DTYPES[self.spec.dtype]
        )

    def place(self, model: nn.Module, options: TorchOptions) -> nn.Module:
        """Shard every decoder layer, then what is left (embedding, final norm, head)."""
        assert isinstance(options, FsdpOptions)
        compute = _dtype(options.param_dtype, self.spec)
        policy = MixedPrecisionPolicy(param_dtype=compute)
        mesh = init_device_mesh(self.device.type, (self.world,))
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        empty = _is_empty(model)
        if not empty:
            model = model.to(self.device)
        layers = decoder_layers(model)
        if layers is None:
            raise InputError(f"{type(model).__name__} has no list of decoder layers to shard.")
        if options.gradient_checkpointing:
            _checkpointed(model)
        if options.liger:
            self.patched.append(apply_liger(model))
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        if empty:
            fill(model, self._whole, self.device)
            self._whole = None
        return model

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, where it was asked for."""
        if not self._autocast:
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.spec.dtype])

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """A trainer does not sample."""
        raise InputError("fsdp is a trainer, it cannot sample.", "Use --engine vllm or hf.")

    def records(
        self, rows: Rows, request: ScoreRequest, progress: Progress
    ) -> dict[int, RowRecord]:
        """Every rank scores its share and the rows that stand alone; all ranks get all records.

        A rank without a row of its own in the last round scores a row again: sharded layers are
        gathered in step, so every rank must run the same number of forwards.
        """
        size = request.micro_batch or self.micro_batch
        alone = sorted({*request.tap_rows, *request.alone_rows})
        shared = [row for row in range(rows.n_rows) if row not in alone]
        each = -(-len(shared) // (size * self.world)) * size
        padded = [shared[min(i, len(shared) - 1)] for i in range(each * self.world)]
        mine = [*padded[self.rank * each : (self.rank + 1) * each], *alone]
        found = self.scorer.score(rows, mine, request, size, progress)
        if self.world == 1:
            return found
        gathered: list[dict[int, RowRecord]] = [{} for _ in range(self.world)]
        dist.all_gather_object(gathered, found)
        return {row: record for part in reversed(gathered) for row, record in part.items()}

    def close(self) -> None:
        """Free the model and leave the process group."""
        super().close()
        if self._started_group:
            dist.destroy_process_group()


def _is_empty(model: nn.Module) -> bool:
    return next(model.parameters()).is_meta


def _checkpointed(model: nn.Module) -> None:
    """As transformers' own Trainer and verl ask for it; what needs no gradient is not kept either.

    Raises:
        InputError: the architecture has no gradient checkpointing.
    """
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{type(model).__name__} has no gradient checkpointing: {error}",
            "Leave out --trainer-arg gradient_checkpointing.",
        ) from error
    model.requires_grad_(True)


def _dtype(name: str, spec: SideSpec) -> torch.dtype:
    return DTYPES[spec.dtype if name == "auto" else name]


def _start_process_group(options: FsdpOptions) -> None:
    """One process needs no torchrun: it makes a group of its own."""
    if "RANK" not in os.environ:
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group(_backend(options), rank=0, world_size=1, store=store)
    else:
        dist.init_process_group(_backend(options))


def _backend(options: FsdpOptions) -> str:
    cuda = torch.cuda.is_available() and options.device in ("auto", "cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return "nccl" if cuda else "gloo"
