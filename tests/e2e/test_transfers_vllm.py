"""Transfers to real vLLM on the CPU at a learning rate of RL: what did not arrive is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy
from mismatch_lab.trainer.rollout import EngineSpec
from mismatch_lab.trainer.rollout_vllm import VllmRollout

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

LR = 1e-6
UPDATES = 10
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
Tensors = dict[str, Tensor]


@contextmanager
def started(folder: Path, dtype: str, log: Path) -> Iterator[VllmRollout]:
    engine = VllmRollout(EngineSpec(str(folder), dtype, 256, "processed", log=str(log)))
    try:
        yield engine
    finally:
        engine.close()


def read(folder: Path) -> Tensors:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def written(source: Path, folder: Path, tensors: Tensors) -> Path:
    """The checkpoint with these tensors in place of its own."""
    if not folder.exists():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def adam_step(tensors: Tensors, seed: int, dtype: str) -> Tensors:
    """Every weight by the learning rate, up or down, as it then is in the engine's dtype."""
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)

    def moved(name: str, tensor: Tensor) -> Tensor:
        if name.endswith("e_score_correction_bias"):  # no parameter: nothing trains it
            return tensor
        signs = torch.randn(tensor.shape, generator=generator).sign()
        return (tensor.float() + LR * signs).to(kind)

    return {name: moved(name, tensor) for name, tensor in tensors.items()}


def changed(old: Tensors, new: Tensors) -> tuple[str, ...]:
    return tuple(n for n in sorted(new) if not torch.equal(old[n].to(new[n].dtype), new[n]))


MODELS = {
    "mini-gpt-oss": (
        "self_attn.k_proj.weight",
        "self_attn.o_proj.weight",
        "mlp.router.weight",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "embed_tokens.weight",
        "lm_head.weight",
    ),
    "tied_qwen2": ("self_attn.v_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
    "qwen3_moe": (
        "self_attn.q_proj.weight",
        "mlp.gate.weight",
        "mlp.experts.3.up_proj.weight",
        "mlp.experts.5.down_proj.weight",
    ),
    "glm4_moe": (
        "mlp.gate.weight",
        "mlp.shared_experts.gate_proj.weight",
        "mlp.experts.3.gate_proj.weight",
    ),
}
"""Fixture -> one tensor of each kind, by the end of its name; the last layer's is taken."""


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    def named(name: str) -> Path:
        return checkpoint_dir() if name == "mini-gpt-oss" else request.getfixturevalue(name)

    return named


QUICK = (("mini-gpt-oss", "bfloat16"), ("qwen3_moe", "float32"))
CASES = [
    pytest.param(model, dtype, marks=() if (model, dtype) in QUICK else pytest.mark.long)
    for model in MODELS
    for dtype in ("bfloat16", "float32")
]


@pytest.mark.parametrize(("model", "dtype"), CASES)
def test_what_arrives_is_confirmed_and_what_does_not_is_named(
    model: str, dtype: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint(model)
    old = read(source)
    with started(source, dtype, tmp_path / "engine.log") as engine:
        fresh = engine.verify(source)
        assert (fresh.why_not, fresh.confirmed) == ("", True)
        assert fresh.compared == len(old) + (
            model == "tied_qwen2"
        )  # and the head that it is tied to
        first = adam_step(old, 0, dtype)
        folder = written(source, tmp_path / "first", first)
        # Nothing was transferred: every tensor that the step changed is named, and no other.
        assert named(engine.verify(folder).stale, first) == changed(old, first)
        for seed in range(1, UPDATES + 1):
            newest = adam_step(old, seed, dtype)
            assert engine.transfer(written(source, folder, newest)).confirmed
        for end in MODELS[model]:
            tensor = max(name for name in newest if name.endswith(end))
            stale = written(source, tmp_path / "stale", newest | {tensor: first[tensor]})
            assert changed(first, newest).count(tensor) == 1
            assert engine.transfer(stale).confirmed  # it has what it was sent
            found = engine.verify(folder)  # and not what it should have
            assert (found.stale, found.uncompared) == ((tensor,), ())


def named(stale: Collection[str], tensors: Tensors) -> tuple[str, ...]:
    """A head that is the embedding is no tensor of the checkpoint."""
    return tuple(name for name in stale if name in tensors)


def test_exchanged_experts_are_seen(qwen3_moe: Path, tmp_path: Path) -> None:
    stem = "model.layers.1.mlp.experts"
    tensors = read(qwen3_moe)
    swapped = dict(tensors)
    for part in ("gate", "up", "down"):
        one, other = f"{stem}.2.{part}_proj.weight", f"{stem}.6.{part}_proj.weight"
        swapped[one], swapped[other] = tensors[other], tensors[one]
    with started(qwen3_moe, "bfloat16", tmp_path / "engine.log") as engine:
        assert engine.transfer(written(qwen3_moe, tmp_path / "swapped", swapped)).confirmed
        found = engine.verify(qwen3_moe)
    assert set(found.stale) == {name for name in tensors if swapped[name] is not tensors[name]}


def test_the_biases_by_which_routers_choose_reach_the_engine(
    glm4_moe: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    policy = Policy(TrainConfig(model=str(glm4_moe), dtype="bfloat16"), str(glm4_moe))
    made = written(glm4_moe, tmp_path / "made", {})
    policy.save_pretrained(made, policy.weights())
    ranks.leave()
    bias = read(glm4_moe)[BIAS]
    assert bias.dtype == torch.float32
    assert torch.equal(read(made)[BIAS], bias)
    with started(made, "bfloat16", tmp_path / "engine.log") as engine:
        assert engine.verify(glm4_moe).confirmed
        # A transfer in place brings another one.
        moved = read(glm4_moe) | {BIAS: bias + 0.5}
        folder = written(glm4_moe, tmp_path / "moved", moved)
        assert engine.verify(folder).stale == (BIAS,)
        assert engine.transfer(folder).confirmed


def test_an_engine_that_starts_without_them_does_not_say_so(glm4_moe: Path, tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in read(glm4_moe).items() if name != BIAS}
    folder = written(glm4_moe, tmp_path / "without", without)
    with started(folder, "bfloat16", tmp_path / "engine.log") as engine:
        assert engine.verify(folder).confirmed  # all that the folder has
        assert engine.verify(glm4_moe).stale == (BIAS,)
