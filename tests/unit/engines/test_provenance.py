"""What ran where."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mismatch_lab.engines import provenance
from mismatch_lab.engines.provenance import PACKAGES, gather, package_versions
from mismatch_lab.schema import Provenance


def test_the_facts_of_this_machine() -> None:
    facts = gather(["mismatch-lab", "diagnose"])
    assert facts.command == ["mismatch-lab", "diagnose"]
    assert facts.host == platform.node()
    assert facts.cpu_count == os.cpu_count()
    assert facts.python == platform.python_version()
    assert facts.cpu
    assert Provenance.model_validate_json(facts.model_dump_json()) == facts


def test_the_time_is_now_and_says_its_zone() -> None:
    created = datetime.fromisoformat(gather([]).created)
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(seconds=60)


def test_versions_of_what_is_installed_and_of_nothing_else() -> None:
    found = package_versions()
    assert found["numpy"] == np.__version__
    assert found.keys() <= set(PACKAGES)
    assert all(found.values())


def test_a_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert package_versions().keys() == {"numpy"}


def test_accelerators_are_those_nvidia_smi_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def smi(code: int, output: str) -> None:
        done = subprocess.CompletedProcess([], code, stdout=output, stderr="")
        monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: done)

    monkeypatch.setattr(provenance.shutil, "which", lambda _: None)
    assert gather([]).accelerators == []
    monkeypatch.setattr(provenance.shutil, "which", lambda name: f"/usr/bin/{name}")
    smi(0, "NVIDIA H200\nNVIDIA H200\n\n")
    assert gather([]).accelerators == ["NVIDIA H200", "NVIDIA H200"]
    smi(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    assert gather([]).accelerators == []


def test_a_driver_that_hangs_is_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(provenance.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(provenance.subprocess, "run", hang)
    assert gather([]).accelerators == []
