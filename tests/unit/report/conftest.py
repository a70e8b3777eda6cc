"""Reports of synthetic runs, each built once for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the builders stand beside the tests

from built import Built, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Build a synthetic run by name (see BUILDERS) and its report."""
    return cache(lambda name: build(name, tmp_path_factory.mktemp("reports") / name))
