"""Tensors loaded again are the checkpoint's, and no others are touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.engines.torch_repair import copy_tensors
from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import SideSpec

SINKS, ROUTER = "model.layers.1.self_attn.sinks", "model.layers.2.mlp.router.weight"
PLUGIN = f"""
def halve(model):
    for name in ({SINKS!r}, {ROUTER!r}):
        model.get_parameter(name).data.mul_(0.5)
"""


class Experts(nn.Module):
    """Two experts, gate and up fused one above the other, as Qwen3-MoE holds them."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.full((2, 4, 3), value))
        self.down_proj = nn.Parameter(torch.full((2, 3, 2), value))


def model(value: float) -> nn.Module:
    return nn.ModuleDict({"mlp": nn.ModuleDict({"experts": Experts(value)})})


def test_one_experts_matrix_is_a_part_of_the_fused_one() -> None:
    stale, fresh = model(0.0), model(1.0)
    names = ("mlp.experts.1.up_proj.weight", "mlp.experts.0.down_proj.weight")
    copy_tensors(stale, fresh, names)
    tensors = dict(stale.named_parameters())
    expected = torch.zeros(2, 4, 3)
    expected[1, 2:] = 1.0  # up is the lower half
    assert torch.equal(tensors["mlp.experts.gate_up_proj"], expected)
    assert tensors["mlp.experts.down_proj"].sum(dim=(1, 2)).tolist() == [6.0, 0.0]


def test_an_unknown_name_is_a_clear_error() -> None:
    with pytest.raises(InputError, match=r"no tensor 'mlp\.experts\.1\.up\.weight' to load"):
        copy_tensors(model(0.0), model(1.0), ("mlp.experts.1.up.weight",))


def test_another_shape_is_a_clear_error() -> None:
    stale = model(0.0)
    stale["mlp"]["experts"].down_proj = nn.Parameter(torch.zeros(2, 3, 5))  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match=r"shape \(2, 3, 5\), the checkpoint has \(2, 3, 2\)"):
        copy_tensors(stale, model(1.0), ("mlp.experts.down_proj",))


def test_an_engine_loads_tensors_again_after_its_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    stock = SideSpec(side="train", engine="hf", model=str(checkpoint_dir()), dtype="float32")
    halved = stock.model_copy(update={"plugin": f"{plugin}:halve"})
    again = halved.model_copy(update={"resync": (SINKS,)})
    expected, broken = HfEngine(stock).fingerprint(), HfEngine(halved).fingerprint()
    repaired = HfEngine(again)
    found = repaired.fingerprint()
    assert {name for name in expected if broken[name] != expected[name]} == {SINKS, ROUTER}
    assert {name for name in expected if found[name] != expected[name]} == {ROUTER}
    assert repaired.patched == [f"plugin {plugin}:halve", f"loaded again: {SINKS}"]
