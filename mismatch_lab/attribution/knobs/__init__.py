"""The catalogue of knobs: what can be set otherwise on a side, and what each cause says of it."""

from __future__ import annotations

from mismatch_lab.attribution.knobs import engine, modules, sampling, sglang, trainer
from mismatch_lab.attribution.knobs.base import Knob

KNOBS: tuple[Knob, ...] = (
    # sampling
    sampling.TEMPERATURE_1,
    sampling.TOP_P_1,
    sampling.LOGPROBS_MODE,
    sampling.GENERATION_CONFIG,
    # engine
    engine.FRESH_ENGINE,
    engine.PREFIX_CACHE,
    engine.KV_CACHE_DTYPE,
    engine.EAGER_MODE,
    engine.CHUNKED_PREFILL,
    engine.ATTENTION_BACKEND,
    engine.QUANTISATION,
    engine.ENGINE_FLOAT32,
    # SGLang
    sglang.RADIX_CACHE,
    sglang.CHUNKED_PREFILL,
    sglang.OVERLAP_SCHEDULE,
    sglang.CUDA_GRAPHS,
    sglang.DETERMINISTIC,
    sglang.ON_POLICY_TARGET,
    sglang.ORIGINAL_LOGPROB,
    # trainer
    trainer.PACKING_OFF,
    trainer.MICRO_BATCH_1,
    trainer.ATTENTION_EAGER,
    trainer.EXPERTS_EAGER,
    trainer.LIGER_OFF,
    trainer.AUTOCAST_OFF,
    trainer.ROUTING_REPLAY,
    trainer.TRAINER_FLOAT32,
    # a patched trainer
    modules.STOCK_ATTENTION,
    modules.STOCK_ROTARY,
    modules.STOCK_ROTARY_TABLES,
    modules.STOCK_HEAD,
    modules.STOCK_NORMS,
    modules.STOCK_EXPERTS,
    modules.NO_DROPOUT,
)
"""Another knob is one entry in its module and one row; a cause that it concerns is in its sets."""
