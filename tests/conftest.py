"""Options and markers that all tests share; fixtures stand beside the tests that use them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from hypothesis import settings

from mismatch_lab.engines.interpreters import own_python

# Two shared cores make any deadline flaky, and a failure in CI has to fail again on a desk.
settings.register_profile("mismatch-lab", deadline=None, derandomize=True)
settings.load_profile("mismatch-lab")


def _missing_gpu() -> str:
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else "no CUDA GPU"


def _missing_vllm() -> str:
    return "" if find_spec("vllm") else "vLLM is not installed (make env)"


def _missing_sglang() -> str:
    return "" if own_python("sglang") else "SGLang's environment is not there (make sglang)"


def _missing_verl() -> str:
    return "" if own_python("verl") else "verl's environment is not there (make verl)"


def _missing_trl() -> str:
    return "" if find_spec("trl") else "TRL is not installed (make env)"


def _missing_browser() -> str:
    if find_spec("playwright") is None:
        return "playwright is not installed (make env)"
    return "" if shutil.which("chromium") else "chromium is not installed (make chromium)"


def _left_out() -> str:
    return "" if os.environ.get("MISMATCH_LAB_LONG") else "minutes long (make test-long)"


MISSING: dict[str, Callable[[], str]] = {
    "long": _left_out,
    "gpu": _missing_gpu,
    "vllm": _missing_vllm,
    "sglang": _missing_sglang,
    "trl": _missing_trl,
    "verl": _missing_verl,
    "browser": _missing_browser,
}
# Where CI=true, these have been installed; a skip would hide that they were not.
NEVER_SKIPPED_IN_CI = {"vllm", "sglang", "trl", "browser"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark-size",
        choices=["small", "full"],
        default="small",
        help="small: quick enough for every run; full: the sizes the README states",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run; fail instead where CI promised it."""
    for marker, missing in MISSING.items():
        if item.get_closest_marker(marker) is None or not (reason := missing()):
            continue
        if os.environ.get("CI") == "true" and marker in NEVER_SKIPPED_IN_CI:
            pytest.fail(f"{reason}, and CI must not skip {marker!r} tests", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def benchmark_size(pytestconfig: pytest.Config) -> str:
    """`small` or `full`, from --benchmark-size."""
    return str(pytestconfig.getoption("--benchmark-size"))
