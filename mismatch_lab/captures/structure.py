"""The parts of a decoder, found in the model itself: embedding, layers, final norm, and in layers
every module that holds weights or is a norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mismatch_lab.captures.names import EMBEDDING, FINAL_NORM, canonical_name

DEPTH = 3
"""Components of a name within its layer: `mlp.shared_experts.up_proj`, and nothing deeper."""


@dataclass(frozen=True)
class Outline:
    """Paths of a model's outermost parts, in its own words; None where it has no such part."""

    embedding: str | None
    layers: str | None
    norm: str | None


def outline(model: nn.Module) -> Outline:
    """Where the embedding, the list of decoder layers and the final norm are.

    The layers are the list of as many as the config says, and of such the one that holds most
    modules. The final norm is the last norm beside them; the embedding the one that the model says
    it is, or the first table outside of the layers.
    """
    modules = dict(model.named_modules())
    lists = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and not _numbered(n)]
    wanted = _layer_count(model)

    def size(name: str) -> tuple[bool, int]:
        layers = modules[name]
        return len(layers) == wanted, sum(1 for _ in layers.modules())

    layers = max(lists, key=size, default=None)
    holder = "" if layers is None else layers.rpartition(".")[0]
    outside = [n for n in modules if n and (layers is None or not n.startswith(f"{layers}."))]
    norms = [n for n in outside if n.rpartition(".")[0] == holder and is_norm(modules[n])]
    tables = [n for n in outside if hasattr(modules[n], "num_embeddings")]
    own = _own_embedding(model)
    embedding = next((n for n in outside if modules[n] is own), next(iter(tables), None))
    return Outline(embedding, layers, norms[-1] if norms and layers is not None else None)


def decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """The list of decoder layers."""
    path = outline(model).layers
    return None if path is None else model.get_submodule(path)  # type: ignore[return-value]


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of `model` under their canonical names, in the order of definition."""
    found = outline(model)
    names = {found.embedding: EMBEDDING, found.norm: FINAL_NORM}
    parts: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        name = names.get(path) if path in names else _within_layer(path, module, found)
        if name is not None and name not in parts:
            parts[name] = module
    return parts


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, weights or none: by its class, which every program names so."""
    return "Norm" in type(module).__name__ and next(module.children(), None) is None


def _within_layer(path: str, module: nn.Module, found: Outline) -> str | None:
    """Canonical name of a layer or a part of one; None for what is not recorded."""
    if found.layers is None or not path.startswith(f"{found.layers}."):
        return None
    number, *within = path.removeprefix(f"{found.layers}.").split(".")
    holds = next(module.parameters(), None) is not None or is_norm(module)
    container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if len(within) > DEPTH or any(part.isdigit() for part in within) or container or not holds:
        return None
    return canonical_name(".".join(["layers", number, *within]))


def _layer_count(model: nn.Module) -> int | None:
    """Decoder layers of the language model, as the config has it; None where there is none."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "num_hidden_layers", None)


def _own_embedding(model: nn.Module) -> nn.Module | None:
    """What a transformers model says its embedding is."""
    try:
        own = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return own if isinstance(own, nn.Module) else None


def _numbered(path: str) -> bool:
    return any(part.isdigit() for part in path.split("."))
