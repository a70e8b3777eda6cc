"""Experiments on the engine: caches, graphs, kernels, formats; what its sampling is asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.attribution.experiments.base import (
    ASKED,
    PRECISION,
    Experiment,
    Prepared,
    Trial,
    in_float32,
    judged_but,
    plain,
)
from mismatch_lab.engines.framework_options import GENERATION_ARGUMENT, PREFERRED
from mismatch_lab.schema import RunSpec

OF_UPDATES = (
    "stale-weights", "stale-tensor", "adapter-not-delivered", "untied-head", "stale-prefix-cache",
    "stale-graph", "expert-layout", "router-bias",
)  # fmt: skip
"""What an update of the weights can leave behind."""

KERNELS = (
    "attention-sinks-dropped", "attention-softcap", "attention-scale", "sliding-window",
    "kv-cache-quantisation", "decode-prefill-divergence",
)  # fmt: skip
"""What attention kernels get wrong."""

BACKENDS = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")

ROUNDED = PRECISION | {"kv-cache-quantisation"}


def _without(run: RunSpec, *names: str) -> Prepared | None:
    args = {name: value for name, value in run.infer.args.items() if name not in names}
    if args == run.infer.args:
        return None
    return Prepared(Trial(run.infer.model_copy(update={"args": args})), ASKED)


def _fresh(run: RunSpec) -> Prepared | None:
    if run.infer.weight_update is None:
        return None
    started = {"weights_before": None, "weight_update": None}
    return Prepared(Trial(run.infer.model_copy(update=started)), ASKED)


FRESH_ENGINE = Experiment(
    id="fresh-engine",
    changes="a new start on the checkpoint in place of an update",
    suspects=("infer", "decode"),
    prepared=_fresh,
    may_clear=frozenset(OF_UPDATES),
    leaves=judged_but(*OF_UPDATES),
)

PREFIX_CACHE = Experiment(
    id="prefix-cache",
    changes="no prefix cache",
    suspects=("decode",),
    prepared=partial(plain, name="enable_prefix_caching", wanted=False),
    may_clear=frozenset({"stale-prefix-cache"}),
    leaves=judged_but("stale-prefix-cache"),
)

KV_CACHE_DTYPE = Experiment(
    id="kv-cache-dtype",
    changes="keys and values cached in the model's dtype",
    suspects=("infer", "decode"),
    prepared=partial(plain, name="kv_cache_dtype", wanted="auto"),
    may_clear=frozenset({"kv-cache-quantisation"}),
    leaves=judged_but("kv-cache-quantisation"),
)

EAGER_MODE = Experiment(
    id="eager-mode",
    changes="neither graphs nor compiled code",
    suspects=("infer", "decode"),
    prepared=partial(plain, name="enforce_eager", wanted=True),
    may_clear=frozenset({"stale-graph", "decode-prefill-divergence"}),
    leaves=frozenset({"kv-cache-quantisation", "stale-prefix-cache", *OF_UPDATES[:4]}),
)

CHUNKED_PREFILL = Experiment(
    id="chunked-prefill",
    changes="prompts in one piece",
    suspects=("decode",),
    prepared=partial(plain, name="enable_chunked_prefill", wanted=False),
    may_clear=frozenset({"decode-prefill-divergence"}),
    leaves=judged_but("decode-prefill-divergence"),
)

ATTENTION_BACKEND = Experiment(
    id="attention-backend",
    changes="the engine's own choice of attention kernels",
    suspects=("infer", "decode"),
    prepared=lambda run: _without(run, *BACKENDS),
    may_clear=frozenset(KERNELS),
    leaves=judged_but(*KERNELS),
)

QUANTISATION = Experiment(
    id="quantisation",
    changes="weights as the checkpoint holds them",
    suspects=("infer",),
    prepared=lambda run: _without(run, "quantization"),
    may_clear=frozenset({"weight-quantisation"}),
    leaves=judged_but("weight-quantisation"),
)

ENGINE_FLOAT32 = Experiment(
    id="engine-float32",
    changes="everything in float32",
    suspects=("infer", "decode"),
    prepared=lambda run: in_float32(run.infer),
    may_clear=ROUNDED,
    leaves=judged_but(*ROUNDED),
)


SEMANTICS = ("raw-logprobs-temperature", "sampler-truncation", "sampling-penalties")


def _sampled(run: RunSpec, **changed: Any) -> Prepared | None:
    asked = run.probe.sampling
    wanted = asked.model_copy(update=changed)
    return None if wanted == asked else Prepared(Trial(run.infer, wanted), ASKED)


def _no_generation_config(run: RunSpec) -> Prepared | None:
    """Neither the checkpoint's nor what stands over it."""
    asked = {GENERATION_ARGUMENT, PREFERRED} & run.infer.args.keys()
    if not asked:
        return plain(run, "generation_config", "vllm")
    args = {name: value for name, value in run.infer.args.items() if name not in asked}
    if GENERATION_ARGUMENT in asked:
        args["generation_config"] = "vllm"
    return Prepared(Trial(run.infer.model_copy(update={"args": args})), ASKED)


TEMPERATURE_1 = Experiment(
    id="temperature-1",
    changes="sampling at temperature 1",
    suspects=("decode",),
    prepared=lambda run: _sampled(run, temperature=1.0),
    clears=frozenset({"raw-logprobs-temperature"}),
    leaves=judged_but("raw-logprobs-temperature"),
)

TOP_P_1 = Experiment(
    id="top-p-1",
    changes="sampling from the whole distribution",
    suspects=("decode",),
    prepared=lambda run: _sampled(run, top_p=1.0),
    may_clear=frozenset({"sampler-truncation"}),
    leaves=judged_but("sampler-truncation"),
)

LOGPROBS_MODE = Experiment(
    id="logprobs-mode",
    changes="log-probs returned after temperature and truncation",
    suspects=("decode",),
    prepared=lambda run: plain(run, "logprobs_mode", "processed_logprobs"),
    may_clear=frozenset(SEMANTICS),
    leaves=judged_but(*SEMANTICS),
)

GENERATION_CONFIG = Experiment(
    id="generation-config",
    changes="nothing taken from the checkpoint's generation_config",
    suspects=("decode",),
    prepared=_no_generation_config,
    may_clear=frozenset({"sampler-truncation", "sampling-penalties"}),
    leaves=judged_but("sampler-truncation", "sampling-penalties"),
)
