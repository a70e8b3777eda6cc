"""The table of faults: whole, light, and in the words of the catalogue."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES, Fault, RunOptions

CAUSES = {
    "semantics": "raw-logprobs-temperature sampler-truncation sampling-penalties logit-scale "
    "logit-softcap vocab-padding partial-normaliser impossible-token",
    "precision": "lm-head-precision logprob-precision router-precision norm-precision "
    "tf32-products numerics-floor",
    "tokens": "shift-by-one packing-leak packing-boundary terminal-token retokenisation "
    "prompt-template sentinel-values",
    "attention": "attention-sinks-dropped sliding-window attention-softcap attention-scale "
    "rope-precision rope-theta rope-scaling decode-prefill-divergence",
    "cache": "kv-cache-quantisation stale-prefix-cache stale-graph",
    "moe": "router-renormalisation router-bias routing-two-pass routing-flips expert-layout "
    "expert-bias",
    "weights": "stale-tensor stale-weights adapter-not-delivered untied-head weight-quantisation",
    "trainer": "dropout-active batch-variance",
    "record": "copied-logprobs missing-logprobs wrong-candidate",
}
"""The design's list, by family."""


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_whole(name: str) -> None:
    fault = load_fault(name)
    assert fault.id == name
    assert set(fault.severities) == set(SEVERITIES)
    assert fault.causes[0] in CAUSES[fault.family].split()
    assert all(cause in " ".join(CAUSES.values()).split() for cause in fault.causes)


def test_every_cause_but_the_floor_has_a_fault() -> None:
    planted = {cause for name in FAULTS for cause in load_fault(name).causes[:1]}
    assert set(" ".join(CAUSES.values()).split()) - planted == {"numerics-floor"}


def test_unknown_fault_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"sinks-dropped"):
        load_fault("sinks")


def test_loading_the_descriptors_imports_no_torch() -> None:
    code = (
        "import sys; from mismatch_lab.faults import FAULTS, load_fault;"
        "[load_fault(n) for n in FAULTS]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_independent_of_what_recognises_causes() -> None:
    code = (
        "import sys; from mismatch_lab.faults import FAULTS, load_fault;"
        "[load_fault(n) for n in FAULTS];"
        "sys.exit(any('alterations' in m or 'attribution' in m for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_causes_need_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Fault(
            id="x",
            about="",
            causes=("router-bias", "stale-tensor"),
            family="moe",
            side="infer",
            kind="options",
            severities={"plain": 1, "medium": 1, "slight": 1},
            options=lambda _strength: RunOptions(),
        )


def test_kind_needs_its_function() -> None:
    with pytest.raises(ValueError, match="without its function"):
        Fault(
            id="x",
            about="",
            causes=("router-bias",),
            family="moe",
            side="infer",
            kind="plugin",
            severities={"plain": 1, "medium": 1, "slight": 1},
        )
