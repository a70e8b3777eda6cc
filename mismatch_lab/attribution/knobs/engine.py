"""Knobs of the engine that samples: caches, graphs, kernels, formats."""

from __future__ import annotations

from functools import partial

from mismatch_lab.attribution.knobs.base import ASKED, Knob, Trial, Turn, all_but, plain
from mismatch_lab.attribution.knobs.precision import PRECISION, in_float32
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


def _without(run: RunSpec, *names: str) -> Turn | None:
    args = {name: value for name, value in run.infer.args.items() if name not in names}
    if args == run.infer.args:
        return None
    return Turn(Trial(run.infer.model_copy(update={"args": args})), ASKED)


def _fresh(run: RunSpec) -> Turn | None:
    if run.infer.weight_update is None:
        return None
    started = {"weights_before": None, "weight_update": None}
    return Turn(Trial(run.infer.model_copy(update=started)), ASKED)


FRESH_ENGINE = Knob(
    id="fresh-engine",
    does="a new start on the checkpoint in place of an update",
    suspects=("infer", "decode"),
    turn=_fresh,
    may_clear=frozenset(OF_UPDATES),
    keeps=all_but(*OF_UPDATES),
)

PREFIX_CACHE = Knob(
    id="prefix-cache",
    does="no prefix cache",
    suspects=("decode",),
    turn=partial(plain, name="enable_prefix_caching", wanted=False),
    may_clear=frozenset({"stale-prefix-cache"}),
    keeps=all_but("stale-prefix-cache"),
)

KV_CACHE_DTYPE = Knob(
    id="kv-cache-dtype",
    does="keys and values cached in the model's dtype",
    suspects=("infer", "decode"),
    turn=partial(plain, name="kv_cache_dtype", wanted="auto"),
    may_clear=frozenset({"kv-cache-quantisation"}),
    keeps=all_but("kv-cache-quantisation"),
)

EAGER_MODE = Knob(
    id="eager-mode",
    does="neither graphs nor compiled code",
    suspects=("infer", "decode"),
    turn=partial(plain, name="enforce_eager", wanted=True),
    may_clear=frozenset({"stale-graph", "decode-prefill-divergence"}),
    keeps=frozenset({"kv-cache-quantisation", "stale-prefix-cache", *OF_UPDATES[:4]}),
)

CHUNKED_PREFILL = Knob(
    id="chunked-prefill",
    does="prompts in one piece",
    suspects=("decode",),
    turn=partial(plain, name="enable_chunked_prefill", wanted=False),
    may_clear=frozenset({"decode-prefill-divergence"}),
    keeps=all_but("decode-prefill-divergence"),
)

ATTENTION_BACKEND = Knob(
    id="attention-backend",
    does="the engine's own choice of attention kernels",
    suspects=("infer", "decode"),
    turn=lambda run: _without(run, *BACKENDS),
    may_clear=frozenset(KERNELS),
    keeps=all_but(*KERNELS),
)

QUANTISATION = Knob(
    id="quantisation",
    does="weights as the checkpoint holds them",
    suspects=("infer",),
    turn=lambda run: _without(run, "quantization"),
    may_clear=frozenset({"weight-quantisation"}),
    keeps=all_but("weight-quantisation"),
)

ENGINE_FLOAT32 = Knob(
    id="engine-float32",
    does="everything in float32",
    suspects=("infer", "decode"),
    turn=lambda run: in_float32(run.infer),
    may_clear=ROUNDED,
    keeps=all_but(*ROUNDED),
)
