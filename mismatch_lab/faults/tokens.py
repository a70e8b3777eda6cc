"""Tokens that are others, neighbours that should not be there, log-probs in the wrong place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.rows import scored, some_rows


def change_first_tokens(model: Any, strength: float) -> None:
    """The trainer renders another prompt than the engine saw: as long, other first tokens.

    The first `strength` tokens of each sequence reach the embedding as their neighbours in the
    vocabulary.
    """

    def rendered(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0].clone()
        first = ids[:, : int(strength)]
        ids[:, : int(strength)] = (first + 7) % module.num_embeddings
        return (ids, *args[1:])

    model.get_input_embeddings().register_forward_pre_hook(rendered)


DRIFT_FROM = 52
"""The drift sits in the answers: the card's prompts are shorter, and encoded once."""


def drift_tokens(model: Any, strength: float) -> None:
    """Text decoded and encoded again: some tokens that the trainer reads are not those sampled.

    From DRIFT_FROM on, one token in `1 / strength` reaches the embedding as another.
    """

    def drifted(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0].clone()
        every = round(1 / strength)
        ids[:, DRIFT_FROM::every] = (ids[:, DRIFT_FROM::every] + 1) % module.num_embeddings
        return (ids, *args[1:])

    model.get_input_embeddings().register_forward_pre_hook(drifted)


def run_positions_on(model: Any, strength: float) -> None:
    """Packed sequences whose positions do not restart: later ones see the earlier ones.

    The positions of a packed row run on, as if it were one sequence.
    """
    del strength

    def run_on(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        import torch

        positions = kwargs.get("position_ids")
        if positions is None:
            return args, kwargs
        through = torch.arange(positions.shape[-1], device=positions.device)
        mask = kwargs.get("attention_mask")
        if mask is not None and (isinstance(mask, dict) or mask.dim() > 2):
            kwargs = kwargs | {"attention_mask": None}  # a mask of documents
        return args, kwargs | {"position_ids": through.expand_as(positions)}

    model.register_forward_pre_hook(run_on, with_kwargs=True)


def packed(strength: float) -> RunOptions:
    """Packs of `strength` sequences."""
    return RunOptions(trainer_args={"packing": True, "micro_batch": int(strength)})


def mask_as_one_document(model: Any, strength: float) -> None:
    """Packed sequences whose positions restart, under a mask that knows of no documents.

    A mask of ones, from which transformers infers one document (nanoVLM's defect).
    """
    del strength

    def one_document(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions = kwargs.get("position_ids")
        if positions is None or kwargs.get("past_key_values") is not None:
            return args, kwargs
        return args, kwargs | {"attention_mask": positions.new_ones(positions.shape)}

    model.register_forward_pre_hook(one_document, with_kwargs=True)


def roll_over_boundary(capture: Capture, strength: float) -> Capture:
    """Labels rolled across packed sequences: each one's last token gets its neighbour's first.

    In a share of rows the last token carries the log-prob of the next row's first one.
    """
    logp = capture.logp.copy()
    for row in some_rows(capture, strength):
        neighbour = scored(capture, (row + 1) % capture.rows.n_rows)
        logp[scored(capture, row)[-1]] = capture.logp[neighbour[0]]
    return replace(capture, logp=logp)


def shift_later(capture: Capture, strength: float) -> Capture:
    """The sampler's log-probs arrive one token late.

    Each token of the chosen share of rows gets the log-prob of the one before it.
    """
    return shifted(capture, strength, 1)


def shifted(capture: Capture, share: float, by: int) -> Capture:
    """Rows whose log-probs are rolled by so many tokens."""
    logp = capture.logp.copy()
    for row in some_rows(capture, share):
        tokens = scored(capture, row)
        logp[tokens] = np.roll(capture.logp[tokens], by)
    return replace(capture, logp=logp)


def shift_earlier(capture: Capture, strength: float) -> Capture:
    """The trainer pairs logits with the token they were computed after, not with the next one.

    Each token of the chosen share of rows gets the log-prob of the one after it.
    """
    return shifted(capture, strength, -1)


def zero_last_token(capture: Capture, strength: float) -> Capture:
    """Log-prob 0.0 at the last sampled token of a share of rows."""
    logp = capture.logp.copy()
    for row in some_rows(capture, strength):
        logp[scored(capture, row)[-1:]] = 0.0
    return replace(capture, logp=logp)


def short_answers(strength: float) -> RunOptions:
    """Answers cut short: a model is certain of an end of its own, and certain is log-prob 0."""
    del strength
    return RunOptions(sampling={"max_tokens": 16})


MISSING = -9999.0


def clamp_improbable(capture: Capture, strength: float) -> Capture:
    """A server that has no log-prob for a token says -9999.

    The least probable share of the sampled tokens is -9999: outside the returned top-k.
    """
    tokens = np.concatenate([scored(capture, row) for row in range(capture.rows.n_rows)])
    count = max(1, round(strength * len(tokens)))
    logp = capture.logp.copy()
    logp[tokens[np.argsort(capture.logp[tokens], kind="stable")[:count]]] = MISSING
    return replace(capture, logp=logp)


FAULTS: tuple[Fault, ...] = (
    # The padding token is the end-of-sequence token, so the trainer masks the real one away.
    Fault(
        id="masked-eos",
        about="end-of-sequence tokens masked to log-prob 0 in the trainer",
        causes=("terminal-token",),
        family="tokens",
        side="train",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        options=short_answers,
        rewrite=zero_last_token,
        target="train",
    ),
    Fault(
        id="packing-boundary",
        about="the last token of each packed sequence scored with its neighbour's",
        causes=("packing-boundary",),
        family="tokens",
        side="train",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
        rewrite=roll_over_boundary,
        target="train",
    ),
    Fault(
        id="packing-leak",
        about="packed sequences attend to their neighbours in the trainer",
        causes=("packing-leak",),
        family="tokens",
        side="train",
        kind="plugin",
        severities={"plain": 8, "medium": 4, "slight": 2},
        plant=run_positions_on,
        options=packed,
    ),
    Fault(
        id="packing-leak-restarted",
        about="packed sequences attend to their neighbours, at restarted positions",
        causes=("packing-leak",),
        family="tokens",
        side="train",
        kind="plugin",
        severities={"plain": 8, "medium": 4, "slight": 2},
        plant=mask_as_one_document,
        options=packed,
    ),
    Fault(
        id="prompt-template",
        about="the first tokens of the prompt are others in the trainer",
        causes=("prompt-template",),
        family="tokens",
        side="train",
        kind="plugin",
        severities={"plain": 12, "medium": 4, "slight": 1},
        plant=change_first_tokens,
    ),
    Fault(
        id="retokenisation",
        about="some answer tokens are others in the trainer's input",
        causes=("retokenisation",),
        family="tokens",
        side="train",
        kind="plugin",
        severities={"plain": 1 / 8, "medium": 1 / 32, "slight": 1 / 128},
        plant=drift_tokens,
    ),
    Fault(
        id="sentinel-clamp",
        about="improbable tokens of the engine reported as -9999",
        causes=("sentinel-values",),
        family="tokens",
        side="infer",
        kind="capture",
        severities={"plain": 0.02, "medium": 0.005, "slight": 0.001},
        rewrite=clamp_improbable,
        target="decode",
    ),
    Fault(
        id="shift-infer",
        about="the engine's log-probs one token late",
        causes=("shift-by-one",),
        family="tokens",
        side="infer",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
        rewrite=shift_later,
        target="decode",
    ),
    Fault(
        id="shift-train",
        about="the trainer's log-probs one token early",
        causes=("shift-by-one",),
        family="tokens",
        side="train",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.125},
        rewrite=shift_earlier,
        target="train",
    ),
    # The glue appends an end-of-sequence token itself and gives it log-prob 0.
    Fault(
        id="synthetic-eos",
        about="synthetic end-of-sequence tokens with log-prob 0 from the sampler",
        causes=("terminal-token",),
        family="tokens",
        side="infer",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        options=short_answers,
        rewrite=zero_last_token,
        target="decode",
    ),
)
