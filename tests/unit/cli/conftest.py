"""Makes `calls` importable, and runs `mismatch-lab WORDS` in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mismatch_lab.cli import main

if TYPE_CHECKING:
    from calls import Call

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """Runs `mismatch-lab WORDS` in an empty folder."""
    from calls import Outcome

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mismatch-lab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, *capfd.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)
