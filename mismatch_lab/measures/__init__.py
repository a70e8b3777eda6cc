"""Measures of the mismatch between two policies: numpy arrays in, frozen dataclasses out.

No torch, no files, no logging: the same functions serve the offline comparison of captures and the
live monitor of a trainer. Arrays carry their side (`logp_infer`, `logp_train`), and
`delta = logp_train - logp_infer`, in nats, on tokens the engine sampled. Tokens come flattened,
with `row_ids` [N], ascending, naming each token's sequence.

| module        | what it measures                                                            |
| ------------- | --------------------------------------------------------------------------- |
| `edge`        | `EDGE_MEASURES` and `measure_edge`: all token-level measures in one pass    |
| `logprob`     | delta, |delta|, multiplicative error, correlation; top-1 agreement          |
| `kl`          | KL(infer || train): k1, k2, k3, and exact at probe positions                |
| `ratio`       | chi2, effective sample fraction, sequence ratios, share outside the band    |
| `routing`     | agreement of expert choices; delta of tokens whose routing flipped          |
| `hidden`      | relative error, cosine and best-fit scale of hidden states                  |
| `tokens`      | delta by position and by probability, its histogram, the worst tokens       |
| `calibration` | are sampled tokens distributed as the reported log-probs say?               |
| `suppositions` | how likely sampled tokens are if they were drawn otherwise than reported    |
| `aggregate`   | mergeable running state, for live use                                       |
| `stats`       | `Estimate`; means, quantiles and ratios of means with 95 % intervals        |
| `paired`      | how many times the floor an error is on the typical token                   |
| `against_baseline` | how many times an earlier run's an error is, position by position        |
| `student`     | intervals by Student's t, for few rows                                      |
| `bootstrap`   | the cluster bootstrap behind the intervals                                  |
| `sums`        | the additive terms of which edge measures are functions                     |
| `histogram`, `rows` | log-spaced bins; array types, length checks and per-row sums          |

To add a token-level measure: write it as a function of `DeltaSums` in the module it belongs to (a
new additive term goes into `sums.TokenSums` and `sums.token_terms`), and add one row to
`EDGE_MEASURES`. `measure_edge`, the live aggregate and `mismatch-lab list measures` follow. Test it
against numbers worked out by hand in a comment.
"""

from mismatch_lab.measures.edge import EDGE_MEASURES, EdgeMeasure, measure_edge
from mismatch_lab.measures.stats import Estimate, ratio_of_means

__all__ = ["EDGE_MEASURES", "EdgeMeasure", "Estimate", "measure_edge", "ratio_of_means"]
