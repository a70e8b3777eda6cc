"""prime-rl's own loss, with every sequence observed. Not run with prime-rl: see docs/live.md.

# in the trainer's configuration; PYTHONPATH has this folder
[trainer.loss]
type = "custom"
import_path = "prime_rl_loss.loss"
"""

from prime_rl.configs.trainer import DefaultLossConfig
from prime_rl.trainer.rl.loss import default_loss_fn

from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.adapters.prime_rl import observed

MONITOR = MismatchMonitor("mismatch", model="CHECKPOINT", dtype="bfloat16", trainer="prime-rl")


def _loss(inputs):
    return default_loss_fn(inputs, DefaultLossConfig())


loss = observed(_loss, MONITOR)
