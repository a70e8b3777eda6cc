"""Every defined architecture against transformers' own code for it, on random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import CASES, WINDOW, save_model

from mismatch_lab.definitions.model import load_definition
from mismatch_lab.definitions.recipes import RECIPES
from mismatch_lab.errors import NotDefinedError

TOKENS = 48
"""More than the windows and the original contexts of the cases."""

ROUNDING = 64 * torch.finfo(torch.float32).eps
"""Of a log-prob, relative to the largest logit: some tens of products and sums in a row."""


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("model")
    return save_model(request.param, folder), folder


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


@torch.no_grad()
def test_it_says_what_transformers_says(pair: tuple[Any, Path]) -> None:
    theirs, folder = pair
    ours = load_definition(folder, config_of(folder), torch.float32)
    ids = torch.randint(3, 160, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids).logits
    found = ours(ids).logits
    largest = float(expected.abs().max())
    assert expected.std() > 0.1  # it says something
    torch.testing.assert_close(
        found.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=ROUNDING * max(largest, 1.0)
    )


def test_every_recipe_has_a_case() -> None:
    assert {kind for kind, _ in CASES.values()} == set(RECIPES)


def test_an_architecture_without_a_recipe_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(NotDefinedError, match="mamba"):
        load_definition(tmp_path, {"model_type": "mamba"}, torch.float32)


def test_a_window_that_is_read_in_two_ways_is_not_defined(tmp_path: Path) -> None:
    save_model("cohere2", tmp_path)
    kinds = ["sliding_attention", "full_attention"] * 2
    config = config_of(tmp_path) | {"sliding_window": WINDOW, "layer_types": kinds}
    with pytest.raises(NotDefinedError, match="sliding_window"):
        load_definition(tmp_path, config, torch.float32)


def test_an_entry_that_is_missing_is_named(tmp_path: Path) -> None:
    save_model("granite", tmp_path)
    config = {k: v for k, v in config_of(tmp_path).items() if k != "attention_multiplier"}
    with pytest.raises(NotDefinedError, match="attention_multiplier"):
        load_definition(tmp_path, config, torch.float32)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    with pytest.raises(NotDefinedError, match="shape"):
        load_definition(tmp_path, config_of(tmp_path) | {"vocab_size": 161}, torch.float32)
