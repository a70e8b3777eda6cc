#!/bin/bash
# slime with a monitor, by its option for a function that sees each rollout. Not run with slime:
# docs/live.md says what that means.
#
#   bash examples/hooks/slime.sh (and what else your run needs)
export MISMATCH_LAB_RECORD=${MISMATCH_LAB_RECORD:-mismatch}
exec python train.py --get-mismatch-metrics \
  --rollout-data-postprocess-path mismatch_lab.live.adapters.slime.observe "$@"
