"""Where vLLM has no batch-invariant kernels it says nothing; the fix does."""

from types import SimpleNamespace

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.batch_invariant import check_device


def platform(kind: str, capability: int = 0) -> SimpleNamespace:
    """As `vllm.platforms.current_platform` answers on such a device."""
    return SimpleNamespace(
        device_type=kind,
        is_cuda=lambda: kind == "cuda",
        is_cuda_alike=lambda: kind in ("cuda", "rocm"),
        is_xpu=lambda: kind == "xpu",
        has_device_capability=lambda least: capability >= least,
    )


def test_on_gpus_that_have_the_kernels() -> None:
    for has in (platform("cuda", 80), platform("cuda", 90), platform("rocm"), platform("xpu")):
        check_device(has)


@pytest.mark.parametrize(
    ("without", "named"), [(platform("cuda", 75), "capability 8.0"), (platform("cpu"), "for cpu")]
)
def test_elsewhere_it_is_refused(without: SimpleNamespace, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_device(without)
