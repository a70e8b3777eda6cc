"""The engine keeps keys and values as integers, with a scale for each token and head."""

from __future__ import annotations

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.kv_cache_fp8 import plant

FAULT = Fault(
    id="kv-cache-int8",
    about="keys and values of the engine's cache in integers",
    causes=("kv-cache-quantisation",),
    family="cache",
    side="infer",
    kind="plugin",
    severities={"plain": "int4", "medium": "int8", "slight": "float16"},
    expected_location=first_attention,
    dtypes=("float32",),
    plant=plant,
)
