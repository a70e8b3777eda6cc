from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab import resources
from mismatch_lab.errors import InputError


def test_checkout_has_both_folders() -> None:
    root = Path(__file__).parents[2]
    assert resources.probes_dir() == root / "probes"
    assert resources.reports_dir() == root / "reports"


def test_packaged_folder_comes_before_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "mismatch_lab"
    (package / "_data" / "probes").mkdir(parents=True)
    (tmp_path / "probes").mkdir()
    (tmp_path / "pyproject.toml").touch()
    assert resources._find("probes", package) == package / "_data" / "probes"


def test_stranger_in_site_packages_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    with pytest.raises(InputError, match="'probes' is missing"):
        resources._find("probes", tmp_path / "mismatch_lab")


def test_error_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    package = tmp_path / "mismatch_lab"
    with pytest.raises(InputError) as caught:
        resources._find("reports", package)
    assert str(package / "_data" / "reports") in caught.value.problem
    assert "pip install --force-reinstall mismatch-lab" in caught.value.hint
