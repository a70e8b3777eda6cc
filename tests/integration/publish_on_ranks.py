"""What as many ranks publish as torchrun starts: `publish_on_ranks.py MODEL OUT`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy

if __name__ == "__main__":
    torch.set_num_threads(1)
    policy = Policy(TrainConfig(model=sys.argv[1], dtype="bfloat16"), sys.argv[1])
    weights = policy.weights()
    if dist.get_rank() == 0:
        policy.save_pretrained(Path(sys.argv[2]), weights)
    assert bool(weights) == (dist.get_rank() == 0)
    ranks.end()
