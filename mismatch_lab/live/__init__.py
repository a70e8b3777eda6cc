"""Hooks for training loops: what both sides say of each step, kept, measured and watched.

| module        | what it has                                                                 |
| ------------- | --------------------------------------------------------------------------- |
| `recorder`    | `Recorder`: three lines that keep what `diagnose --captures` reads          |
| `monitor`     | `MismatchMonitor`: measures, alarms, the evidence and the next command       |
| `watch`       | the alarms, one table, with the limits and where they come from             |
| `change`      | the detector of changes, with its stated false-alarm probability            |
| `measure`     | the numbers of a step                                                       |
| `sinks`       | JSONL, TensorBoard, Weights & Biases, Prometheus, one table                 |
| `steps`, `background` | arrays of a step, its captures, and the thread that does the work   |
| `adapters`    | TRL, verl, slime, prime-rl, NeMo-RL, one table                              |
"""

from mismatch_lab.live.monitor import MismatchMonitor
from mismatch_lab.live.recorder import Recorder

__all__ = ["MismatchMonitor", "Recorder"]
