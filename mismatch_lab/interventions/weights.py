"""Suspected defects of weights: stale tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.checkpoints.config import read_config, resolve_model_path
from mismatch_lab.definitions.model import Definition, load_definition
from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions.planting import attributes_set, in_layers, text
from mismatch_lab.schema import Alteration

EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<at>\d+)\.(?P<part>gate|up|down)_proj\.weight")
"""Name of one expert's matrix in checkpoints that store them one by one."""


@contextmanager
def weights_from(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Weights of another checkpoint (value: its folder): those in `tensors`, or all of them.

    Tied weights change together, but for the head when it is named: it alone changes then.

    Raises:
        InputError: the folder is no checkpoint of this architecture, or has no such tensor.
        NotApplicableError: it holds the same weights.
    """
    kind: Any = type(model)
    other = _read(resolve_model_path(text(alteration)), kind, next(model.parameters()).dtype)
    changes = []
    for name, new in _wanted(model, other, alteration).items():
        if new.equal(model.get_parameter(name).data.cpu()):
            continue
        for owner, leaf in _places(model, name):
            old = getattr(owner, leaf)
            changes.append((owner, leaf, nn.Parameter(new.to(old), requires_grad=False)))
    if not changes:
        raise NotApplicableError(f"{alteration.value} holds the same weights.")
    with attributes_set(changes):
        yield


@lru_cache(maxsize=1)
def _read(folder: str, model_class: Any, dtype: torch.dtype) -> Mapping[str, Tensor]:
    # By transformers itself: checkpoints name and fuse tensors in other ways than models do.
    if model_class is Definition:
        other: Any = load_definition(Path(folder), read_config(folder), dtype)
        return {name: parameter.data for name, parameter in _parameters(other)}
    try:
        other = model_class.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"Cannot read weights from {folder}: {error}") from error
    return {name: parameter.data for name, parameter in _parameters(other)}


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _wanted(
    model: nn.Module, other: Mapping[str, Tensor], alteration: Alteration
) -> dict[str, Tensor]:
    """Model name -> its new values, single experts put in their place among the old ones."""
    here = dict(_parameters(model))
    wanted: dict[str, Tensor] = {}
    for name in alteration.tensors if alteration.tensors is not None else here:
        if not in_layers(name, alteration):
            continue
        single = EXPERT.fullmatch(name)
        whole = _fused_name(single) if single and name not in here else name
        if whole not in here or whole not in other or here[whole].shape != other[whole].shape:
            raise InputError(f"There is no tensor {name!r} of that shape on both sides.")
        if single and name not in here:
            start = wanted.get(whole, here[whole].data.cpu().clone())
            wanted[whole] = _with_expert(model, start, other[whole], whole, single)
        else:
            wanted[whole] = other[whole]
    return wanted


def _fused_name(single: re.Match[str]) -> str:
    fused = "down_proj" if single["part"] == "down" else "gate_up_proj"
    return f"{single['experts']}.{fused}"


def _with_expert(
    model: nn.Module, start: Tensor, source: Tensor, name: str, single: re.Match[str]
) -> Tensor:
    """`start` with one matrix of one expert from `source`; gate and up are halves of one."""
    experts: Any = model.get_submodule(name.rpartition(".")[0])
    if experts.is_transposed or not experts.is_concatenated:
        raise InputError(f"{name} is not made of single experts' matrices.")
    half = source.shape[1] // 2
    rows = {"gate": slice(0, half), "up": slice(half, None), "down": slice(None)}[single["part"]]
    at = int(single["at"])
    start[at, rows] = source[at, rows]
    return start


def _places(model: Any, name: str) -> list[tuple[nn.Module, str]]:
    """(module, attribute) of every use of the parameter of that name."""
    names = [name]
    head = model.get_output_embeddings()
    parameter = model.get_parameter(name)
    owner, _, _ = name.rpartition(".")
    if model.get_submodule(owner) is not head:
        names = [other for other, tied in _parameters(model) if tied is parameter]
    return [(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in names]
