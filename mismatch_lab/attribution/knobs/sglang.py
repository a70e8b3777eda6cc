"""Knobs of SGLang alone; those that both engines call alike are in `engine.py`."""

from __future__ import annotations

from functools import partial

from mismatch_lab.attribution.knobs.base import Knob, Turn, all_but, plain
from mismatch_lab.attribution.knobs.sampling import SEMANTICS
from mismatch_lab.schema import OptionValue, RunSpec

BATCHES = ("batch-variance", "decode-prefill-divergence", "numerics-floor")
"""What changes with the company that a token has in a batch, and with how sums are cut."""
ON_POLICY = (*BATCHES, "logprob-precision", "lm-head-precision")
"""What SGLang computes as FSDP does where it is asked to."""
DECODE = ("decode-prefill-divergence", "stale-graph")


def _on_gpu(run: RunSpec, name: str, wanted: OptionValue) -> Turn | None:
    """Where a GPU is: SGLang's backends for a CPU refuse it."""
    return plain(run, name, wanted) if run.provenance.accelerators else None


RADIX_CACHE = Knob(
    id="sglang-radix-cache",
    does="no radix cache",
    suspects=("decode",),
    turn=partial(plain, name="disable_radix_cache", wanted=True),
    may_clear=frozenset({"stale-prefix-cache"}),
    keeps=all_but("stale-prefix-cache"),
)

CHUNKED_PREFILL = Knob(
    id="sglang-chunked-prefill",
    does="prompts prefilled whole",
    suspects=("infer", "decode"),
    turn=partial(plain, name="chunked_prefill_size", wanted=-1),
    may_clear=frozenset(BATCHES),
    keeps=all_but(*BATCHES),
)

OVERLAP_SCHEDULE = Knob(
    id="sglang-overlap-schedule",
    does="one batch after another, none scheduled while another runs",
    suspects=("decode",),
    turn=partial(plain, name="disable_overlap_schedule", wanted=True),
    may_clear=frozenset(DECODE),
    keeps=all_but(*DECODE, "unlisted"),
)

CUDA_GRAPHS = Knob(
    id="sglang-cuda-graphs",
    does="no captured graphs",
    suspects=("infer", "decode"),
    turn=partial(plain, name="disable_cuda_graph", wanted=True),
    may_clear=frozenset(DECODE),
    keeps=frozenset({"kv-cache-quantisation", "stale-prefix-cache", "stale-weights"}),
)

DETERMINISTIC = Knob(
    id="sglang-deterministic",
    does="batch-invariant kernels (enable_deterministic_inference)",
    suspects=("infer", "decode"),
    turn=partial(_on_gpu, name="enable_deterministic_inference", wanted=True),
    may_clear=frozenset(BATCHES),
    keeps=all_but(*BATCHES, "unlisted"),
)

ON_POLICY_TARGET = Knob(
    id="sglang-on-policy-target",
    does="what it computes as FSDP computes it (rl_on_policy_target)",
    suspects=("infer", "decode"),
    turn=partial(_on_gpu, name="rl_on_policy_target", wanted="fsdp"),
    may_clear=frozenset(ON_POLICY),
    keeps=all_but(*ON_POLICY, "unlisted"),
)

ORIGINAL_LOGPROB = Knob(
    id="sglang-original-logprob",
    does="log-probs returned after the temperature",
    suspects=("decode",),
    turn=partial(plain, name="original_logprob", wanted=False),
    may_clear=frozenset(SEMANTICS),
    keeps=all_but(*SEMANTICS),
)
