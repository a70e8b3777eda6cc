"""One MoE layer of GPT-OSS with random weights, sharded by FSDP2 over the one rank there is."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

from mismatch_lab.remedies.grouped_experts.memory import GPT_OSS_20B, LayerShape

SCALE = 0.02


@dataclass(frozen=True)
class Setting:
    """Shape, dtype and device of a run."""

    shape: LayerShape
    dtype: torch.dtype
    device: str


REAL = Setting(GPT_OSS_20B, torch.bfloat16, "cuda")
DRY_RUN = Setting(LayerShape(32, 48, 8, 2, 2, 4), torch.float32, "cpu")


def make_layer(setting: Setting) -> Any:
    """A `GptOssMLP`, router and experts, not sharded."""
    shape = setting.shape
    config = GptOssConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        num_hidden_layers=1,
    )
    config._experts_implementation = "eager"
    with torch.device(setting.device):
        torch.manual_seed(0)
        layer: nn.Module = GptOssMLP(config).to(setting.dtype)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(std=SCALE)
    return layer


def make_mesh(device: str) -> DeviceMesh:
    """Of the one rank there is; starts torch.distributed without a network."""
    if not dist.is_initialized():
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        backend = "nccl" if device == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return init_device_mesh(device, (1,))


def shard(layer: nn.Module, mesh: DeviceMesh) -> None:
    """FSDP2 as in training: parameters are gathered for each pass and freed after it."""
    # GptOssMLP returns a view; nothing here works on it in place.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def choose(layer: Any, way: str) -> None:
    """Let the experts of this layer run this way."""
    layer.experts.config._experts_implementation = way


def make_input(setting: Setting, tokens: int) -> Tensor:
    """[1, T, H], a leaf."""
    generator = torch.Generator(setting.device).manual_seed(1)
    size = 1, tokens, setting.shape.hidden
    options: dict[str, Any] = {"dtype": setting.dtype, "device": setting.device}
    return torch.randn(size, generator=generator, **options).requires_grad_()
