"""NeMo-RL's GRPO with its logger watched. Not run with NeMo-RL: see docs/live.md.

    uv run python examples/hooks/nemo_rl.py --config CONFIG.yaml

Put the two lines below into your copy of NeMo-RL's examples/run_grpo.py, after `setup` and before
`grpo_train`; this is that function with nothing else in it.
"""

from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.adapters.nemo_rl import watch


def watch_logger(logger, master_config):
    """Call it with the logger and the configuration that `setup` returns."""
    policy = master_config["policy"]
    monitor = MismatchMonitor(
        "mismatch", model=policy["model_name"], dtype=policy["precision"], trainer="nemo-rl"
    )
    watch(logger, monitor, temperature=policy["generation"]["temperature"])
