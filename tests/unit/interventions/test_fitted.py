"""A tensor fitted to what a changed model says: right on rows it did not see, if it is the one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.probes import is_held_out
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions import altered
from mismatch_lab.schema import Alteration, Manifest

WRONG = "model.layers.0.self_attn.o_proj.weight"
OTHER = "model.layers.0.self_attn.v_proj.weight"
ROWS, LENGTH, TEMPERATURE = 32, 16, 0.8


@pytest.fixture(params=["llama", "qwen3_moe"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], nn.Module]) -> Iterator[nn.Module]:
    found = tiny(request.param)
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    yield found
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in found.parameters())


def ids() -> torch.Tensor:
    return torch.randint(2, 40, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))


def logp(model: nn.Module) -> torch.Tensor:
    """[ROWS, LENGTH - 1, V]"""
    with torch.no_grad():
        logits = model(input_ids=ids(), use_cache=False).logits[:, :-1]
    whole: torch.Tensor = (logits / TEMPERATURE).log_softmax(-1)
    return whole


def own(whole: torch.Tensor) -> torch.Tensor:
    """[ROWS, LENGTH - 1] of the tokens themselves."""
    return whole.gather(-1, ids()[:, 1:, None])[..., 0]


@pytest.fixture
def said(model: nn.Module, tmp_path: Path) -> Path:
    """What the model says with noise of half its deviation on one tensor, and everything of it at
    every third token.
    """
    weight = model.get_parameter(WRONG)
    kept = weight.data
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
    weight.data = kept + 0.5 * kept.std() * noise
    whole = logp(model)
    weight.data = kept
    rows = Rows.build(
        ids().tolist(), [1] * ROWS, [[False] + [True] * (LENGTH - 1) for _ in range(ROWS)]
    )
    flat = np.full((ROWS, LENGTH), np.nan, np.float32)
    flat[:, 1:] = own(whole)
    at = np.arange(1, LENGTH, 3)
    positions = (np.arange(ROWS)[:, None] * LENGTH + at).reshape(-1)
    probes = whole[:, at - 1].reshape(len(positions), -1).numpy()
    manifest = Manifest(
        id="prefill", side="infer", engine="http", engine_version="", model="m", dtype="float32",
        sampling=None, logprob_space="raw", patched=[], host="h", packages={}, rows=ROWS,
        tokens=ROWS * LENGTH, wall_s=0.0, arrays_sha256="",
    )  # fmt: skip
    save_capture(tmp_path / "prefill", Capture(rows, flat.reshape(-1), positions, probes), manifest)
    return tmp_path / "prefill"


def left(model: nn.Module, said: Path, name: str) -> float:
    """Share of the error that a fit leaves on rows that it did not see."""
    held_out = [row for row in range(ROWS) if is_held_out(row)]
    assert len(held_out) == ROWS // 4
    capture, _ = load_capture(said)
    wanted = torch.from_numpy(capture.logp.reshape(ROWS, LENGTH)[:, 1:])
    before = (own(logp(model)) - wanted)[held_out].abs().mean()
    alteration = Alteration(
        name="fitted_weights", value=f"{TEMPERATURE}:60:{said}", tensors=(name,)
    )
    with altered(model, (alteration,)):
        after = (own(logp(model)) - wanted)[held_out].abs().mean()
    return float(after / before)


def test_the_right_tensor_explains_rows_that_its_fit_did_not_see(
    model: nn.Module, said: Path
) -> None:
    right, other = left(model, said, WRONG), left(model, said, OTHER)
    assert right < 0.7
    assert other > 0.85


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_it_is_refused_without_such_a_tensor_or_without_rows(model: nn.Module, said: Path) -> None:
    for tensors in (("model.no.such.weight",), None):
        alteration = Alteration(name="fitted_weights", value=f"1.0:9:{said}", tensors=tensors)
        with pytest.raises(NotApplicableError, match="no tensor"), altered(model, (alteration,)):
            pytest.fail("there is none")
    with (
        pytest.raises(InputError, match="needs a name"),
        altered(model, (Alteration(name="fitted_weights", tensors=(WRONG,)),)),
    ):
        pytest.fail("it has nothing to fit to")
    capture, manifest = load_capture(said)
    rows = Rows.build([[2, 3]], [1], [[False, True]])
    short = said.with_name("short")
    save_capture(short, Capture(rows, capture.logp[:2]), manifest)
    alteration = Alteration(name="fitted_weights", value=f"1.0:9:{short}", tensors=(WRONG,))
    with pytest.raises(NotApplicableError, match="too few rows"), altered(model, (alteration,)):
        pytest.fail("there is one row")
