"""Updates that reach the engine in part: what stays old, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.faults import load_fault
from mismatch_lab.faults.checkpoints import perturb


@pytest.fixture
def before(tmp_path: Path, build_model: Callable[[str], Any]) -> Path:
    folder = tmp_path / "before"
    build_model("llama").save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)


def moved(a: Any, b: Any) -> set[str]:
    """Names of the parameters that differ."""
    import torch

    other = dict(b.named_parameters())
    return {n for n, p in a.named_parameters() if not torch.equal(p, other[n])}


def test_perturb_moves_every_tensor_by_a_share_of_its_deviation(before: Path) -> None:
    after = before.with_name("after")
    perturb(before, after, 0.1, seed=0)
    old, new = load(before), load(after)
    name = "model.layers.1.mlp.up_proj.weight"
    step = new.get_parameter(name) - old.get_parameter(name)
    # 48 · 32 normal numbers times 0.1: their deviation is known to 0.1 · sd / sqrt(2 · 1536).
    assert step.std() / old.get_parameter(name).std() == pytest.approx(0.1, rel=0.08)
    # Norm weights are all 1: they have no deviation to move by.
    still = {n for n, _ in old.named_parameters() if "norm" in n}
    assert moved(old, new) == {n for n, _ in old.named_parameters()} - still


def test_adapter_moves_attention_by_rank_four(before: Path) -> None:
    import torch

    after = before.with_name("after")
    perturb(before, after, 0.1, seed=0, low_rank=True)
    old, new = load(before), load(after)
    assert {n.split("self_attn.")[1] for n in moved(old, new)} == {
        "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight",
    }  # fmt: skip
    name = "model.layers.0.self_attn.q_proj.weight"
    step = new.get_parameter(name) - old.get_parameter(name)
    assert torch.linalg.matrix_rank(step, rtol=1e-4) == 4


def test_perturb_refuses_to_overwrite(before: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        perturb(before, before, 0.1, seed=0)


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("stale-tensor", lambda n: n == "model.layers.2.self_attn.k_proj.weight"),
        ("stale-weights", lambda n: "norm" not in n),
        ("adapter-missing", lambda n: "self_attn" in n),
    ],
)
def test_only_what_was_left_out_stays_old(
    name: str, stale: Callable[[str], bool], before: Path
) -> None:
    fault = load_fault(name)
    assert fault.update is not None
    after = before.with_name("after")
    perturb(before, after, 0.1, seed=0, low_rank=fault.low_rank)
    new, engine = load(after), load(after)
    fault.update(engine, before)
    assert moved(engine, new) == {n for n, _ in new.named_parameters() if stale(n)}
    assert not {n for n in moved(engine, load(before)) if stale(n)}


def test_untied_head_stays_old_and_the_embedding_does_not(
    tmp_path: Path, build_model: Callable[[str], Any]
) -> None:
    import torch

    before, after = tmp_path / "before", tmp_path / "after"
    build_model("gemma2").save_pretrained(before)
    fault = load_fault("untied-head")
    assert fault.update is not None
    assert fault.applies("gemma2", json.loads((before / "config.json").read_text()))
    perturb(before, after, 0.1, seed=0)
    engine, old, new = load(after), load(before), load(after)
    fault.update(engine, before)
    assert torch.equal(engine.lm_head.weight, old.lm_head.weight)
    assert torch.equal(engine.model.embed_tokens.weight, new.model.embed_tokens.weight)


@pytest.mark.parametrize("name", ["stale-graph", "stale-prefix-cache"])
def test_stale_caches_touch_generation_alone(name: str, before: Path) -> None:
    import torch

    fault = load_fault(name)
    assert fault.update is not None
    after = before.with_name("after")
    perturb(before, after, 0.3, seed=0)
    new, engine = load(after), load(after)
    fault.update(engine, before)
    ids = torch.randint(2, 96, (2, 20), generator=torch.Generator().manual_seed(5))
    clean, scored = (m(input_ids=ids, use_cache=False).logits for m in (new, engine))
    assert torch.equal(clean, scored)
    asked: dict[str, Any] = {
        "max_new_tokens": 2,
        "min_new_tokens": 2,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    first, second = zip(
        *(
            m.generate(ids, attention_mask=torch.ones_like(ids), **asked).logits
            for m in (new, engine)
        ),
        strict=True,
    )
    # A graph holds single-token steps, so the prompt's forward is right; a stale prompt is not.
    assert torch.allclose(first[0], first[1], atol=1e-5) == (name == "stale-graph")
    assert not torch.allclose(second[0], second[1], atol=1e-2)
    assert moved(engine, new) == set()
