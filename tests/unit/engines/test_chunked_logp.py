"""Chunked log-probs are those of a plain log-softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mismatch_lab.engines import chunked_logp
from mismatch_lab.engines.chunked_logp import log_softmax, token_logp

TOKENS, WIDTH, VOCABULARY = 75, 8, 50


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a head [V, D], hidden states [N, D], targets [N]."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator)
    return weight, hidden, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


def plain(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits.double() / temperature, -1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("chunk_tokens", [1, 16, 17, 74, 75, 10_000])
def test_equals_the_plain_log_softmax(
    problem: tuple[Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    chunk_tokens: int,
    temperature: float,
) -> None:
    monkeypatch.setattr(chunked_logp, "CHUNK_BYTES", 4 * VOCABULARY * chunk_tokens)
    weight, hidden, targets = problem
    got = token_logp(lambda h: h @ weight.T, hidden, targets, temperature)
    assert got.dtype == torch.float32
    expected = plain(hidden @ weight.T, targets, temperature)
    torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=0)


def test_by_hand() -> None:
    # Logits 0 and ln 3, probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10.
    logits = torch.tensor([[0.0, 3.0]]).log().clamp(min=0)
    for temperature, expected in ((1.0, 0.75), (0.5, 0.9)):
        got = token_logp(lambda _h: logits, torch.zeros(1, 1), torch.tensor([1]), temperature)
        assert got.exp().item() == pytest.approx(expected)
        assert log_softmax(logits, temperature).exp().tolist() == [
            pytest.approx([1 - expected, expected])
        ]


def test_bfloat16_logits_are_normalised_in_float32(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, hidden, targets = problem
    logits = (hidden @ weight.T).bfloat16()
    got = token_logp(lambda h: (h @ weight.T).bfloat16(), hidden, targets)
    assert got.dtype == torch.float32
    # In bfloat16 the error would be near 0.01.
    torch.testing.assert_close(got.double(), plain(logits, targets, 1.0), atol=2e-6, rtol=0)


def test_float64_stays_float64(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, hidden, targets = (t.double() if t.is_floating_point() else t for t in problem)
    got = token_logp(lambda h: h @ weight.T, hidden, targets)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, plain(hidden @ weight.T, targets, 1.0), atol=1e-14, rtol=0)


def test_the_head_never_sees_more_than_a_chunk(
    problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_logp, "CHUNK_BYTES", 4 * VOCABULARY * 20)
    weight, hidden, targets = problem
    seen = []

    def head(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part @ weight.T

    token_logp(head, hidden, targets)
    assert max(seen) == 20
    assert sum(seen) - TOKENS <= 1  # one token may be asked for the size of the vocabulary


def test_no_tokens_give_no_log_probs(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, hidden, targets = problem
    assert token_logp(lambda h: h @ weight.T, hidden[:0], targets[:0]).shape == (0,)


def test_logits_given_to_the_head_are_not_changed(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, hidden, targets = problem
    logits = hidden @ weight.T
    kept = logits.clone()
    token_logp(lambda h: logits[: len(h)], hidden[:16], targets[:16], 0.5)
    torch.testing.assert_close(logits, kept, atol=0, rtol=0)


def test_gradients_flow_through_the_chunks(
    problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_logp, "CHUNK_BYTES", 4 * VOCABULARY * 20)
    weight, hidden, targets = problem
    leaves = [hidden.clone().requires_grad_() for _ in range(2)]
    chunked = token_logp(lambda part: part @ weight.T, leaves[0], targets)
    (from_chunks,) = torch.autograd.grad(chunked.sum(), leaves[0])
    (expected,) = torch.autograd.grad(plain(leaves[1] @ weight.T, targets, 1.0).sum(), leaves[1])
    torch.testing.assert_close(from_chunks, expected, atol=1e-5, rtol=1e-5)
