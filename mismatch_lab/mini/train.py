"""Train mini-gpt-oss from nothing: `python -m mismatch_lab.mini.train --out DIR`.

Float32 on one CPU thread, so that seed and step count fix the result on one kind of machine.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mismatch_lab.mini.config import mini_config
from mismatch_lab.mini.data import Batch, batches
from mismatch_lab.mini.losses import balance_loss, weighted_cross_entropy
from mismatch_lab.mini.save import save_checkpoint
from mismatch_lab.mini.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import GptOssForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

STEPS = 2000
BATCH_ROWS = 16
PEAK_LR = 2e-3
WARMUP = 0.02
FINAL_LR_SHARE = 0.02
WEIGHT_DECAY = 0.05
GRAD_NORM_MAX = 1.0
BALANCE_WEIGHT = 0.02
LOG_EVERY = 100


def build_model(tokenizer: "PreTrainedTokenizerBase", seed: int) -> "GptOssForCausalLM":
    """A new model whose sinks and biases start away from zero.

    Training hardly moves them, and a checkpoint in which they are zero would hide an engine
    that drops them.
    """
    from transformers import GptOssForCausalLM

    torch.manual_seed(seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = GptOssForCausalLM(  # type: ignore[no-untyped-call]
        mini_config(vocab_size=len(tokenizer), pad_token_id=pad, eos_token_id=end)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                # Above the log of the number of keys: at first a sink takes most of the attention.
                parameter.normal_(4.5, 1.0)
            elif name.endswith("router.bias"):
                parameter.normal_(0.0, 1.0)
            elif name.endswith("gate_up_proj_bias"):
                parameter.normal_(0.0, 0.5)
            elif name.endswith("down_proj_bias"):
                parameter.normal_(0.0, 0.2)
    return model


def build_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices only: norms, sinks and all biases are left alone."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (rest if parameter.ndim < 2 or name.endswith("bias") else matrices).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95), fused=True)


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to a small share; progress runs from 0 to 1."""
    if progress < WARMUP:
        return PEAK_LR * progress / WARMUP
    angle = math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP))
    return PEAK_LR * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(angle)))


def step_loss(model: "PreTrainedModel", batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy (nats per token) and load-balancing loss (0 without experts) of one batch."""
    top_k = getattr(model.config, "num_experts_per_tok", 0)
    asked = {"output_router_logits": True} if top_k else {}
    out = model(input_ids=batch.token_ids, attention_mask=batch.mask, use_cache=False, **asked)
    cross_entropy = weighted_cross_entropy(out.logits, batch.token_ids, batch.weights)
    if not top_k:
        return cross_entropy, torch.zeros(())
    return cross_entropy, balance_loss(out.router_logits, batch.mask, top_k)


def train(out: Path, *, seed: int, steps: int = STEPS, minutes: float = math.inf) -> None:
    """Train and save into `out`; stops at `steps` or `minutes`, whichever comes first.

    The learning rate follows whichever is closer to its end, so both ways it ends low.
    """
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    steps_made = fit(model, tokenizer, seed=seed, steps=steps, minutes=minutes)
    save_checkpoint(model, tokenizer, out)
    print(f"saved {out} after {steps_made} steps", flush=True)


def fit(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int,
    steps: int,
    minutes: float = math.inf,
) -> int:
    """Train a causal LM on the word problems, on one thread; returns the steps made."""
    torch.set_num_threads(1)
    model.train()
    optimizer = build_optimizer(model)
    source = batches(tokenizer, seed=seed, size=BATCH_ROWS)
    started = time.monotonic()
    step = 0
    while (progress := max(step / steps, (time.monotonic() - started) / 60 / minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        cross_entropy, balance = step_loss(model, next(source))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(cross_entropy + BALANCE_WEIGHT * balance)
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_NORM_MAX)
        optimizer.step()
        step += 1
        if step % LOG_EVERY == 0:
            print(
                f"step {step} of {steps}  {time.monotonic() - started:.0f} s  "
                f"cross entropy {cross_entropy.item():.3f}  balance {balance.item():.3f}",
                flush=True,
            )
    return step


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m mismatch_lab.mini.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long")
    args = parser.parse_args(argv)
    train(args.out, seed=args.seed, steps=args.steps, minutes=args.minutes)


if __name__ == "__main__":
    main()
