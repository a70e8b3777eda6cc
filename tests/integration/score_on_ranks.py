"""Log-probs of policies on as many ranks as torchrun starts: `score_on_ranks.py TIED OUT`.

Of the embedded model with each fault that is planted in a trainer's model, and of TIED, a
checkpoint whose head is its embedding, after one update.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mismatch_lab.checkpoints.config import EMBEDDED, read_config_json, resolve_model_path
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.batch import Batch
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.policy import Policy

ROWS = torch.tensor([[5, 17, 40, 9, 33, 21, 60, 8], [8, 12, 101, 60, 90, 7, 30, 11]])
CONFIG = read_config_json(EMBEDDED)
PLANTED = [
    fault.id
    for fault in map(load_fault, FAULTS)
    if fault.kind == "plugin" and fault.side == "train"
    if fault.applies(CONFIG["model_type"], CONFIG)
    if fault.id != "dropout-active"  # draws anew for each forward
]


def batch() -> Batch:
    zeros = torch.zeros(ROWS.shape)
    return Batch(ROWS, torch.full((2,), ROWS.shape[1]), zeros, zeros, torch.zeros(2))


def scores(*faults: str) -> torch.Tensor:
    plan = plan_run(TrainConfig(faults=faults))
    return Policy(plan.config, resolve_model_path(EMBEDDED), plan.change_model).score(batch()).logp


def after_an_update(checkpoint: str) -> torch.Tensor:
    policy = Policy(TrainConfig(), checkpoint)
    for chosen, micro in policy.gradient_batches(batch(), [0, 1]):
        policy.backward(-policy.forward(micro).logp.sum() * bool(chosen))
    policy.step(0)
    return policy.score(batch()).logp


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks.join()
    found = {name: scores(name) for name in PLANTED}
    found |= {"healthy": scores(), "tied": after_an_update(sys.argv[1])}
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[2]))
    ranks.end()
