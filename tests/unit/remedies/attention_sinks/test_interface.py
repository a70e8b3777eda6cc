"""Whole models under `attn_implementation="attention-sinks"`, against transformers' eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.remedies.attention_sinks import packing
from mismatch_lab.remedies.attention_sinks.attend import SinkAttention
from mismatch_lab.remedies.attention_sinks.interface import NAME, register, use

Tiny = Callable[..., nn.Module]
LIMIT = 2e-5  # float32, two to four layers deep


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def token_ids(rows: int, length: int, vocabulary: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, vocabulary, (rows, length), generator=generator)


def gradients(model: Any, kept: Tensor | None = None, **inputs: Any) -> dict[str, Tensor]:
    """Logits, and the gradients of a loss that weighs every kept token's next one."""
    model.zero_grad()
    logits = model(use_cache=False, **inputs).logits
    logp = logits.log_softmax(-1)[..., 5] + logits.log_softmax(-1)[..., 7].square()
    (logp if kept is None else logp[kept]).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach() if kept is None else logits.detach()[kept]} | grads


def worst(got: dict[str, Tensor], true: dict[str, Tensor]) -> tuple[float, str]:
    """Largest relative error, and of what."""
    assert got.keys() == true.keys()
    return max((float((got[n] - true[n]).norm() / true[n].norm()), n) for n in true)


def test_a_random_model_agrees_with_eager(tiny: Tiny) -> None:
    model: Any = tiny()
    ids = token_ids(2, 30)
    eager = gradients(model, input_ids=ids)
    assert sum(name.endswith("sinks") for name in eager) == 2
    use(model)
    assert model.config._attn_implementation == NAME
    assert worst(gradients(model, input_ids=ids), eager)[0] < LIMIT


def test_the_trained_model_agrees_with_eager() -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint_dir(), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = token_ids(1, 80, model.config.vocab_size)  # its window is 32
    eager = gradients(model, input_ids=ids)
    register("attention-sinks-math", kernel="math")
    for name in ("attention-sinks-math", NAME):
        if name == NAME:
            use(model)
        else:
            model.set_attn_implementation(name)
        assert worst(gradients(model, input_ids=ids), eager)[0] < LIMIT


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(side: str, tiny: Tiny) -> None:
    model: Any = tiny()
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, slice(None, 7) if side == "left" else slice(13, None)] = 0
    inputs = {
        "input_ids": token_ids(2, 20),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }
    eager = gradients(model, mask.bool(), **inputs)
    use(model)
    assert worst(gradients(model, mask.bool(), **inputs), eager)[0] < LIMIT


@pytest.mark.parametrize("by", ["positions", "lengths"])
def test_packed_documents_are_those_documents_alone(by: str, tiny: Tiny) -> None:
    model: Any = tiny()
    ids = token_ids(1, 24)
    lengths = [9, 1, 14]
    alone = [gradients(model, input_ids=part) for part in ids.split(lengths, dim=1)]
    true = {
        name: torch.stack([p[name] for p in alone]).sum(0) for name in alone[0].keys() - {"logits"}
    }
    true["logits"] = torch.cat([p["logits"] for p in alone], dim=1)
    use(model)
    inputs: dict[str, Any] = {"position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}
    if by == "lengths":
        cu = torch.tensor([0, 9, 10, 24])
        inputs |= {"cu_seq_lens_q": cu, "cu_seq_lens_k": cu, "max_length_q": 14, "max_length_k": 14}
    assert worst(gradients(model, input_ids=ids, **inputs), true)[0] < LIMIT


def test_no_mask_of_scores_is_made(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny()
    use(model)
    seen: list[Tensor | None] = []
    original = SinkAttention.__call__

    def spy(self: Any, module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        seen.append(mask)
        return original(self, module, q, k, v, mask, **kwargs)

    monkeypatch.setattr(SinkAttention, "__call__", spy)
    model(input_ids=token_ids(2, 9))
    padded = torch.ones(2, 9, dtype=torch.long)
    padded[0, :3] = 0
    model(input_ids=token_ids(2, 9), attention_mask=padded)
    assert seen[:2] == [None, None]
    assert [mask.shape for mask in seen[2:] if mask is not None] == [(2, 9), (2, 9)]


def test_generation_with_a_cache(tiny: Tiny) -> None:
    """12 tokens past a window of 6, one row padded on the left."""
    model: Any = tiny()
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "min_new_tokens": 12}
    greedy = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    eager = model.generate(token_ids(2, 8), **options, **greedy)
    use(model)
    ours = model.generate(token_ids(2, 8), **options, **greedy)
    assert ours.sequences.equal(eager.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(eager.logits))


def test_bfloat16_autocast_and_checkpointing(tiny: Tiny) -> None:
    """Rotary embeddings in float32 leave q and k wider than v; eager's products are cast too."""
    model: Any = tiny()
    ids = token_ids(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        eager = gradients(model, input_ids=ids)["logits"]
        use(model)
        checkpointing = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        next(getattr(model, name) for name in checkpointing if hasattr(model, name))()
        ours = gradients(model.train(), input_ids=ids)
    assert float((ours["logits"] - eager).norm() / eager.norm()) < 0.02
    assert ours["model.layers.0.self_attn.sinks"].any()


def test_lengths_are_read_once_per_forward(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    original = packing._restarted
    monkeypatch.setattr(packing, "_restarted", lambda p: made.append(p) or original(p))
    model: Any = tiny()
    use(model)
    positions = torch.cat([torch.arange(5), torch.arange(4)])[None]
    model(input_ids=token_ids(1, 9), position_ids=positions)
    assert len(made) == 1
    positions[0, 5:] += 5  # one document now, in the same memory
    model(input_ids=token_ids(1, 9), position_ids=positions)
    assert len(made) == 2


def test_what_it_cannot_do_is_refused(tiny: Tiny) -> None:
    x = torch.zeros(1, 2, 3, 4)
    sinks = torch.zeros(2)
    attend = SinkAttention()
    refused: list[tuple[str, dict[str, Any]]] = [
        ("passed no sinks", {"s_aux": None}),
        ("no dropout", {"s_aux": sinks, "dropout": 0.1}),
        (
            "no softcap, attention weights",
            {"s_aux": sinks, "softcap": 3.0, "output_attentions": True},
        ),
        ("not causal", {"s_aux": sinks, "is_causal": False}),
    ]
    for message, options in refused:
        with pytest.raises(InputError, match=message):
            attend(nn.Identity(), x, x, x, None, **options)
    with pytest.raises(InputError, match=r"mask has shape \(1, 1, 3, 3\)"):
        attend(nn.Identity(), x, x, x, torch.zeros(1, 1, 3, 3), s_aux=sinks)
    with pytest.raises(InputError, match="Linear has no attention sinks"):
        use(nn.Linear(2, 2))
    with pytest.raises(InputError, match="would replace 'flash_sinks'"):
        register("flash_sinks")
