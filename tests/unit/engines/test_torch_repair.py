"""Parts put back as a fresh copy has them, everything else left; dropout that does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from mismatch_lab.engines.torch_repair import disable_dropout, restore_stock
from mismatch_lab.errors import InputError


class Config(SimpleNamespace):
    """As of transformers, of a model of text only."""

    def get_text_config(self) -> Config:
        return self


class Block(nn.Module):
    """Two projections and a config of its own."""

    def __init__(self, value: float, window: int) -> None:
        super().__init__()
        self.q = nn.Linear(1, 1, bias=False)
        self.k = nn.Linear(1, 1, bias=False)
        self.config = Config(window=window)
        for one in (self.q, self.k):
            nn.init.constant_(one.weight, value)


class Model(nn.Module):
    """Two layers and a head; `value` in every weight."""

    def __init__(self, value: float, window: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"attn": Block(value, window)}) for _ in range(2))
        self.lm_head = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.lm_head.weight, value)
        self.config = Config(window=window)


def weights(model: nn.Module) -> dict[str, float]:
    return {name: float(p.detach()) for name, p in model.named_parameters()}


def windows(model: nn.Module) -> list[int]:
    return [m.config.window for m in model.modules() if hasattr(m, "config")]  # type: ignore[union-attr, misc]


def test_modules_of_a_name_are_put_back_in_every_layer() -> None:
    changed, fresh = Model(2.0, window=9), Model(1.0)
    restore_stock(changed, fresh, ("*.q",))
    assert weights(changed) == {
        "layers.0.attn.q.weight": 1.0, "layers.0.attn.k.weight": 2.0,
        "layers.1.attn.q.weight": 1.0, "layers.1.attn.k.weight": 2.0,
        "lm_head.weight": 2.0,
    }  # fmt: skip
    assert windows(changed) == [9, 9, 9]


def test_a_module_takes_its_parts_along() -> None:
    changed = Model(2.0)
    restore_stock(changed, Model(1.0), ("layers.1.attn", "lm_head"))
    assert list(weights(changed).values()) == [2.0, 2.0, 1.0, 1.0, 1.0]


def test_a_replaced_forward_is_gone() -> None:
    changed = Model(1.0)
    changed.lm_head.forward = lambda x: 2 * x  # type: ignore[method-assign, assignment]
    one = torch.ones(1)
    assert changed.lm_head(one).item() == 2.0
    restore_stock(changed, Model(1.0), ("lm_head",))
    assert changed.lm_head(one).item() == 1.0


def test_the_config_is_put_back_wherever_modules_read_it() -> None:
    changed = Model(2.0, window=9)
    own = changed.config
    restore_stock(changed, Model(1.0), ("config",))
    assert windows(changed) == [8, 8, 8]
    assert changed.config is own  # modules that share it see it too
    assert set(weights(changed).values()) == {2.0}


def test_a_name_that_no_module_has_is_a_clear_error() -> None:
    with pytest.raises(InputError, match=r"named \*\.router"):
        restore_stock(Model(2.0), Model(1.0), ("*.router",))


@pytest.fixture
def whole_process() -> Iterator[None]:
    """`disable_dropout` is for the rest of a worker's process; this one goes on."""
    before = functional.dropout
    yield
    functional.dropout = before


@pytest.mark.usefixtures("whole_process")
def test_no_kind_of_dropout_drops() -> None:
    model = nn.ModuleDict({"drop": nn.Dropout(0.5), "attn": nn.Linear(1, 1)}).train()
    model["attn"].attention_dropout = 0.5  # type: ignore[assignment]
    ones = torch.ones(1000)
    assert float(model["drop"](ones).sum()) != 1000.0
    disable_dropout(model)
    assert torch.equal(model["drop"](ones), ones)
    assert torch.equal(functional.dropout(ones, p=0.9, training=True), ones)
    assert model["attn"].attention_dropout == 0.0
