"""A short training on as many ranks as torchrun starts: `train_on_ranks.py OUT`."""

import sys
from pathlib import Path

import torch

from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.loop import train

SETTINGS = {
    "steps": 3,
    "eval_every": 0,
    "checkpoint_every": 2,
    "data.n_heldout": 4,
    "rollout.engine": "hf",
    "rollout.prompts": 3,
    "rollout.group": 4,
    "rollout.new_tokens": 40,
    "optim.micro_batch": 5,  # twelve rows in three micro-batches: one rank has one more
    "loss.kl_weight": 0.01,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(read_config(None, SETTINGS), Path(sys.argv[1]))
    ranks.end()
