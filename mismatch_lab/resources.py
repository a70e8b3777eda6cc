"""Where the files that are not Python lie: `probes/` and `reports/`.

A wheel carries them as package data under `mismatch_lab/_data`; in a checkout (and so in an
editable install) they stand beside the package.
"""

from __future__ import annotations

from pathlib import Path

from mismatch_lab.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def probes_dir() -> Path:
    """The folder of probes, suites and prompt sets.

    Raises:
        InputError: this installation has no such folder.
    """
    return _find("probes")


def reports_dir() -> Path:
    """The folder of the report's templates, styles and scripts.

    Raises:
        InputError: this installation has no such folder.
    """
    return _find("reports")


def _find(name: str, package: Path = _PACKAGE) -> Path:
    packaged, checkout = package / "_data" / name, package.parent / name
    if packaged.is_dir():
        return packaged
    # Without pyproject.toml the parent is a site-packages, whose `probes` would be a stranger's.
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise InputError(
        f"The folder {name!r} is missing from this installation of mismatch-lab: "
        f"neither {packaged} nor {checkout} (in a checkout) is there.",
        "Install it again with `pip install --force-reinstall mismatch-lab`, "
        "or restore the folder in your checkout with `git checkout -- " + name + "`.",
    )
