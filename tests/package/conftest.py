"""The lock, the wheel, and three environments: from the wheel, editable, and bare.

The first two see this environment's libraries through a `.pth` file, after their own: torch, vLLM
and the rest are there to be imported by mistake. The bare one has the base dependencies and
nothing else, installed from the lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Pin:
    """One package of the lock: its version, and its lines with the hashes."""

    version: str
    text: str


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has mismatch-lab."""

    folder: Path

    def run(self, *command: str) -> str:
        """What the command, from the environment's bin/, prints to stdout; fails if it fails."""
        program, *arguments = command
        result = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,  # not the checkout: `import mismatch_lab` must find the installation
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def pip_install(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "-qq", "--python", self.folder / "bin" / "python"]
        subprocess.run([*pip, "install", "--no-deps", "--no-compile", *arguments], check=True)


def needs(package: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What an installed package declares that it needs on this machine, with these extras."""
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
            yield requirement


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock, by canonical name."""
    blocks = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+).*\n((?:    --hash=.*\n)+)", path.read_text(), re.M
    )
    return {
        canonicalize_name(name): Pin(version, f"{name}=={version} \\\n{hashes}")
        for name, version, hashes in blocks
    }


@pytest.fixture(scope="session")
def lock() -> dict[str, Pin]:
    return read_lock(ROOT / "requirements" / "cpu.lock")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, built from the checkout: the way of a release."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


def _new_environment(folder: Path, *, sees_this_one: bool) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    if sees_this_one:
        (site_packages,) = folder.glob("lib/python*/site-packages")
        (site_packages / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Environment(folder)


@pytest.fixture(scope="session")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = _new_environment(tmp_path_factory.mktemp("wheel") / "env", sees_this_one=True)
    environment.pip_install(str(wheel))
    return environment


@pytest.fixture(scope="session")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = _new_environment(tmp_path_factory.mktemp("editable") / "env", sees_this_one=True)
    environment.pip_install("--no-build-isolation", "--editable", str(ROOT))
    return environment


@pytest.fixture(scope="session")
def bare(
    wheel: Path, lock: dict[str, Pin], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    folder = tmp_path_factory.mktemp("bare")
    environment = _new_environment(folder / "env", sees_this_one=False)
    environment.pip_install(str(wheel))
    (site_packages,) = environment.folder.glob("lib/python*/site-packages")
    (distribution,) = metadata.distributions(path=[str(site_packages)])
    pending = [r for r in map(Requirement, distribution.requires or []) if r.marker is None]
    names: set[str] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name not in names:
            names.add(name)
            pending.extend(needs(name, frozenset(requirement.extras)))
    requirements = folder / "base.lock"
    requirements.write_text("".join(lock[name].text for name in sorted(names)))
    environment.pip_install("--require-hashes", "--only-binary", ":all:", "-r", str(requirements))
    return environment
