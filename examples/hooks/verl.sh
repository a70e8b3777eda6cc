#!/bin/bash
# verl with a monitor and no line of code: its plugin loader finds mismatch-lab wherever it is
# installed, in Ray's workers too. Tried with verl 0.9.1's loader and functions; docs/live.md says how.
#
#   bash examples/hooks/verl.sh data.train_files=... (and what else your run needs)
export MISMATCH_LAB_RECORD=${MISMATCH_LAB_RECORD:-mismatch}
export MISMATCH_LAB_DTYPE=${MISMATCH_LAB_DTYPE:-bfloat16}
export MISMATCH_LAB_SINKS=${MISMATCH_LAB_SINKS:-jsonl}
exec python -m verl.trainer.main_ppo actor_rollout_ref.rollout.calculate_log_probs=True "$@"
