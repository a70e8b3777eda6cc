"""The policy that is trained: a transformers model under FSDP2, with AdamW.

Weights are held in float32; the forward runs in the run's dtype (FSDP2's mixed precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mismatch_lab.engines.options import TorchOptions
from mismatch_lab.engines.sharded_load import fill
from mismatch_lab.engines.torch_model import DTYPES, empty_model, load_model
from mismatch_lab.errors import InputError
from mismatch_lab.remedies import load_fixes
from mismatch_lab.schema import SideSpec
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch, lay_out, micro_batches
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy_model import PolicyModel, Scores
from mismatch_lab.trainer.published import Source

FP16_LOSS_SCALE = 1024.0
"""At the start. Gradients below 6e-8 are zero in float16; those of a policy are small."""
FP16_GROWTH_STEPS = 100
"""Steps without an overflow after which the scale doubles; an overflow halves it. A run has some
hundreds of steps: torch's own 2,000 would never bring back what one outlier took."""


class Policy:
    """The model, its optimizer, and what they need to make a step."""

    def __init__(
        self, config: TrainConfig, folder: str, change: Callable[[nn.Module], None] | None = None
    ) -> None:
        """Args:
        config: of the run.
        folder: the checkpoint.
        change: called with the model before it is sharded: where faults and fixes go.
        """
        self.config = config
        self.device = ranks.join()
        self.source = Source(folder, DTYPES[config.dtype])
        self.model = _sharded(config, folder, change, self.device)
        self.bare: Any = self.model.model
        """The transformers model, without the wrapper that is sharded."""
        optim = config.optim
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            weight_decay=optim.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=FP16_LOSS_SCALE,
            growth_interval=FP16_GROWTH_STEPS,
            enabled=config.dtype == "float16",
        )
        """Of the loss; does nothing in other types."""
        self._fixes = load_fixes(config.fixes)

    def forward(self, batch: Batch, fixed: bool = True) -> Scores:
        """Log-probs of a micro-batch's tokens; with gradient unless torch's mode says no.

        Args:
            batch: a micro-batch.
            fixed: with what the run's fixes do around a forward.
        """
        around: AbstractContextManager[Any] = nullcontext()
        if fixed and batch.routing is not None:
            around = self._fixes.around_forward(self.bare, batch.routing)
        with around:
            scores: Scores = self.model(
                batch.ids, batch.attention_mask(), self.config.rollout.temperature, batch.support
            )
        return scores

    @torch.no_grad()
    def score(self, batch: Batch) -> Scores:
        """Log-probs of all rows, in evaluation mode: [R, n] on the CPU, on every rank."""
        self.model.eval()
        groups = micro_batches(batch.lengths, range(batch.n_rows), self.config.optim.micro_batch)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for rows in ranks.mine(groups):
            scores = self.forward(batch.take(rows or [0], self.device))
            for i, row in enumerate(rows or []):
                found[row] = (scores.logp[i].cpu(), scores.entropy[i].cpu())
        found = ranks.gather(found)
        logp, entropy = ({row: pair[i] for row, pair in found.items()} for i in (0, 1))
        shape = batch.ids.shape
        return Scores(lay_out(logp, shape, 0.0), lay_out(entropy, shape, 0.0))

    def gradient_batches(self, batch: Batch, rows: list[int]) -> Iterator[tuple[list[int], Batch]]:
        """This rank's micro-batches in training mode; no rows: one that must weigh nothing."""
        self.model.train()
        groups = micro_batches(batch.lengths, rows, self.config.optim.micro_batch)
        for chosen in ranks.mine(groups):
            yield chosen or [], batch.take(chosen or [0], self.device)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the sum over micro-batches and ranks is the update's."""
        torch.autograd.backward(self.scaler.scale(loss * dist.get_world_size()))

    def step(self, step: int) -> float:
        """Clip, step, forget the gradients. Returns the norm before the clip.

        Where it is not finite the step is skipped, and only the scale of the loss changes: one
        overflow must not end a run.
        """
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        found = nn.utils.clip_grad_norm_(parameters, self.config.optim.grad_norm_max)
        norm = float(found.full_tensor() if isinstance(found, DTensor) else found)
        warmup = self.config.optim.warmup_steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optim.lr * min(1.0, (step + 1) / (warmup + 1))
        if math.isfinite(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, whole, by transformers' names.

        In the dtype that the engine computes in, or the checkpoint's own where that is wider. All
        ranks must call it; only rank 0 gets them. On the CPU; a copy, so that a step does not
        change it.
        """
        found = {}
        for name, tensor in self.model.state_dict().items():
            whole, name = _whole(tensor).detach(), name.removeprefix("model.")
            if dist.get_rank() == 0:
                kind = self.source.dtype_of(name) if whole.is_floating_point() else None
                found[name] = whole.to("cpu", kind, copy=True)
        return found

    def save_pretrained(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write a checkpoint that transformers and engines load.

        Raises:
            EngineError: it is not the whole model that the run began with.
        """
        self.bare.save_pretrained(folder, state_dict=dict(weights))
        if not self.config.faults:  # which may change what the model has
            self.source.check(folder, self.bare)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded(
    config: TrainConfig,
    folder: str,
    change: Callable[[nn.Module], None] | None,
    device: torch.device,
) -> PolicyModel:
    """The checkpoint, changed and cut. Of several ranks only the first reads it."""
    spec = SideSpec(side="train", engine="fsdp", model=folder, dtype=config.dtype)
    options = TorchOptions(attn_implementation=config.attention)

    def prepared(bare: Any) -> PolicyModel:
        bare.requires_grad_(True)
        if change is not None:
            change(bare)
        if config.optim.checkpoint_activations:
            bare.gradient_checkpointing_enable({"use_reentrant": False})
        return PolicyModel(bare, int(bare.config.get_text_config().vocab_size))

    if dist.get_world_size() == 1:
        model = prepared(load_model(spec, options, torch.float32))
        # FSDP2 moves each group to the device as it cuts it: the whole model need not fit there.
        shard(model, config.dtype)
        return model
    first = dist.get_rank() == 0
    source = prepared(load_model(spec, options, torch.float32)) if first else None
    model = prepared(empty_model(spec, options, torch.float32))
    shard(model, config.dtype)
    fill(model, source, device)
    return model


def shard(model: PolicyModel, dtype: str) -> None:
    """Each decoder layer, then all that is left; float32 stays as it is."""
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == "float32" else DTYPES[dtype], reduce_dtype=torch.float32
    )
    bare: Any = model.model
    n_layers = bare.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise InputError("The model has no list of decoder layers to shard.")
    for layer in lists[0]:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
