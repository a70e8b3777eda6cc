"""Experiments on SGLang alone; those that both engines call alike are in `engine.py`."""

from __future__ import annotations

from functools import partial

from mismatch_lab.attribution.experiments.base import Experiment, Prepared, judged_but, plain
from mismatch_lab.attribution.experiments.engine import SEMANTICS
from mismatch_lab.schema import OptionValue, RunSpec

BATCHES = ("batch-variance", "decode-prefill-divergence", "numerics-floor")
"""What changes with the company that a token has in a batch, and with how sums are cut."""
ON_POLICY = (*BATCHES, "logprob-precision", "lm-head-precision")
"""What SGLang computes as FSDP does where it is asked to."""
DECODE = ("decode-prefill-divergence", "stale-graph")


def _on_gpu(run: RunSpec, name: str, wanted: OptionValue) -> Prepared | None:
    """Where a GPU is: SGLang's backends for a CPU refuse it."""
    return plain(run, name, wanted) if run.provenance.accelerators else None


RADIX_CACHE = Experiment(
    id="sglang-radix-cache",
    changes="no radix cache",
    suspects=("decode",),
    prepared=partial(plain, name="disable_radix_cache", wanted=True),
    may_clear=frozenset({"stale-prefix-cache"}),
    leaves=judged_but("stale-prefix-cache"),
)

CHUNKED_PREFILL = Experiment(
    id="sglang-chunked-prefill",
    changes="prompts prefilled whole",
    suspects=("infer", "decode"),
    prepared=partial(plain, name="chunked_prefill_size", wanted=-1),
    may_clear=frozenset(BATCHES),
    leaves=judged_but(*BATCHES),
)

OVERLAP_SCHEDULE = Experiment(
    id="sglang-overlap-schedule",
    changes="one batch after another, none scheduled while another runs",
    suspects=("decode",),
    prepared=partial(plain, name="disable_overlap_schedule", wanted=True),
    may_clear=frozenset(DECODE),
    leaves=judged_but(*DECODE, "unlisted"),
)

CUDA_GRAPHS = Experiment(
    id="sglang-cuda-graphs",
    changes="no captured graphs",
    suspects=("infer", "decode"),
    prepared=partial(plain, name="disable_cuda_graph", wanted=True),
    may_clear=frozenset(DECODE),
    leaves=frozenset({"kv-cache-quantisation", "stale-prefix-cache", "stale-weights"}),
)

DETERMINISTIC = Experiment(
    id="sglang-deterministic",
    changes="batch-invariant kernels (enable_deterministic_inference)",
    suspects=("infer", "decode"),
    prepared=partial(_on_gpu, name="enable_deterministic_inference", wanted=True),
    may_clear=frozenset(BATCHES),
    leaves=judged_but(*BATCHES, "unlisted"),
)

ON_POLICY_TARGET = Experiment(
    id="sglang-on-policy-target",
    changes="what it computes as FSDP computes it (rl_on_policy_target)",
    suspects=("infer", "decode"),
    prepared=partial(_on_gpu, name="rl_on_policy_target", wanted="fsdp"),
    may_clear=frozenset(ON_POLICY),
    leaves=judged_but(*ON_POLICY, "unlisted"),
)

ORIGINAL_LOGPROB = Experiment(
    id="sglang-original-logprob",
    changes="log-probs returned after the temperature",
    suspects=("decode",),
    prepared=partial(plain, name="original_logprob", wanted=False),
    may_clear=frozenset(SEMANTICS),
    leaves=judged_but(*SEMANTICS),
)
