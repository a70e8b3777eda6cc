"""What transformers engines do on a device that is not the CPU: `python check.py` prints JSON.

Each case runs on both devices; its value is the largest difference in nats, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from accelerate import dispatch_model
from device import DEVICE, AnotherDevice
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mismatch_lab.attribution.hypotheses import Features
from mismatch_lab.attribution.predictions import hypotheses_for
from mismatch_lab.captures.capture import Capture, Float32, Rows
from mismatch_lab.checkpoints.config import EMBEDDED, read_config, resolve_model_path
from mismatch_lab.engines import hf, torch_engine
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.schema import Alteration, Sampling, SideSpec

LENGTHS = (40, 20)
TOKENS = np.random.default_rng(0).integers(5, 200, sum(LENGTHS)).tolist()
SEQUENCES = [TOKENS[: LENGTHS[0]], TOKENS[LENGTHS[0] :]]
ROWS = Rows.build(SEQUENCES, [1, 1], [[False] + [True] * (n - 1) for n in LENGTHS])
PROBES = np.concatenate(
    [np.arange(1, n) + s for s, n in zip((0, LENGTHS[0]), LENGTHS, strict=True)]
)
TAPPED = ScoreRequest(probe_positions=PROBES, routing=True, tap_rows=(0, 1))
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "head_dim": 8, "intermediate_size": 16}
SPEC = SideSpec(
    side="ref",
    engine="hf",
    model=resolve_model_path(EMBEDDED),
    dtype="float32",
    # What grouped_mm counts experts with takes no integers on the CPU, and asks where it is.
    args={"attn_implementation": "eager", "experts_implementation": "eager"},
)
Says = Callable[[HfEngine], Float32]


def small_model() -> nn.Module:
    """The embedded model's kind with random values: all that it has, and quick."""
    config = AutoConfig.from_pretrained(SPEC.model)
    config.update(SIZES | {"layer_types": config.layer_types[: SIZES["num_hidden_layers"]]})
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, **SPEC.args
    ).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model


def said(request: ScoreRequest, engine: HfEngine) -> Float32:
    """[T] log-probs."""
    return scored(engine, request).logp


def scored(engine: HfEngine, request: ScoreRequest) -> Capture:
    return engine.score(ROWS, request, lambda _done, _total: None)


def fed_its_own_inputs(engine: HfEngine) -> Float32:
    """[P, V] after a replay of what the same engine recorded, which changes nothing."""
    recorded = scored(engine, TAPPED)
    assert recorded.hidden
    names = ("model.layers.0.self_attn:in", "model.layers.1.mlp:in", "model.norm")
    given = {name: recorded.hidden[name] for name in names}
    found = scored(engine, replace(TAPPED, replay=given)).probe_logp
    assert found is not None
    return found


def told_its_experts(engine: HfEngine) -> Float32:
    """[T] with its own choices of experts replayed."""
    chosen = scored(engine, TAPPED).router_topk
    assert chosen is not None
    return said(ScoreRequest(routing_replay=chosen.astype(np.int16)), engine)


def alterations() -> Iterator[Alteration]:
    """One of each name that some cause predicts for this model."""
    config = read_config(SPEC.model)
    features = Features(suspect="infer", config=config, sampling=Sampling(), rescored=False)
    found: dict[str, Alteration] = {}
    for hypothesis in hypotheses_for(features):
        tried = hypothesis.at(hypothesis.search.grid[0]) if hypothesis.search else hypothesis
        for alteration in tried.model:
            found.setdefault(alteration.name, alteration)
    yield from found.values()


def planted(name: str, engine: HfEngine) -> Float32:
    """[T] with a fault in the model where it stands."""
    fault = load_fault(name)
    assert fault.plant is not None
    fault.plant(engine.scorer.parts.model, fault.severities["plain"])
    return said(ScoreRequest(), engine)


SUBCLASSES = ("lost-shard", "engine-lost-shard")
"""Faults whose logits are a subclass of Tensor, as this device's are: one tensor cannot be both."""


def faults() -> Iterator[str]:
    """Those that can be planted in this model as transformers has it."""
    config = read_config(SPEC.model)
    for name in FAULTS:
        fault = load_fault(name)
        here = fault.plant is not None and (fault.side == "train" or "hf" in fault.engines)
        if here and name not in SUBCLASSES and fault.applies("gpt_oss", config):
            yield name


def cases() -> Iterator[tuple[str, Says]]:
    """What leaves the engine as it was."""
    yield "score", partial(said, ScoreRequest())
    yield "taps and routing", partial(said, TAPPED)
    yield "training mode", partial(said, ScoreRequest(train_mode=True))
    yield "packed", partial(said, ScoreRequest(packing="documents"))
    yield "replay", fed_its_own_inputs
    yield "experts replayed", told_its_experts
    for alteration in alterations():
        yield f"alteration {alteration.name}", partial(said, ScoreRequest(alter=(alteration,)))


def on(there: bool) -> dict[str, Float32 | str]:
    """What each case says on this device, or why it says nothing."""
    torch_engine.pick_device = lambda _name: DEVICE if there else torch.device("cpu")
    with AnotherDevice() if there else nullcontext():
        engine = HfEngine(SPEC)
        found = {name: attempt(says, engine) for name, says in cases()}
        found |= {f"fault {n}": attempt(partial(planted, n), HfEngine(SPEC)) for n in faults()}
    return found


def spread() -> dict[str, Float32 | str]:
    """What each case says of a model whose first layer is there and whose last is here."""
    here = torch.device("cpu")
    first = ("model.embed_tokens", "model.rotary_emb", "model.layers.0")
    last = ("model.layers.1", "model.norm", "lm_head")
    places = dict.fromkeys(first, DEVICE) | dict.fromkeys(last, here)

    def dispatched(*_: object) -> nn.Module:
        model = deepcopy(loaded)
        for name, device in places.items():
            model.get_submodule(name).to(device)
        return dispatch_model(model, places, main_device=DEVICE)  # as transformers does it

    hf.load_model = dispatched
    torch_engine.pick_device = lambda _name: DEVICE
    with AnotherDevice():
        engine = HfEngine(SPEC)
        return {name: attempt(says, engine) for name, says in cases()}


def attempt(says: Says, engine: HfEngine) -> Float32 | str:
    try:
        return says(engine)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def difference(here: Float32 | str, there: Float32 | str) -> float | str:
    if isinstance(here, str) or isinstance(there, str):
        return f"here {here}, there {there}"
    np.testing.assert_array_equal(np.isnan(here), np.isnan(there))
    return float(np.nanmax(np.abs(here - there)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = small_model()
    hf.load_model = lambda *_: deepcopy(loaded)
    here, there = on(there=False), on(there=True)
    there |= {f"spread {name}": says for name, says in spread().items()}
    same = {name: here[name.removeprefix("spread ")] for name in there}
    json.dump({name: difference(same[name], there[name]) for name in there}, sys.stdout, indent=1)
