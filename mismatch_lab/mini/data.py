"""Training rows of mini-gpt-oss: conversations of generated problems, padded into batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from mismatch_lab.mini.problems import Problem, stream

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

SYSTEM_PROMPTS = (
    "Solve the problem.",
    "You solve word problems. Show each step.",
    "You are a helpful assistant.",
)
# Questions are nearly free to learn and keep the model from being blind to its prompt.
QUESTION_WEIGHT = 0.1
POOL_BATCHES = 16


@dataclass(frozen=True)
class Row:
    """One conversation: `token_ids[t]` counts `weights[t]` in the loss; both have length T."""

    token_ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, all of shape [B, T]; `weights` is 0 on padding."""

    token_ids: "torch.Tensor"
    mask: "torch.Tensor"
    weights: "torch.Tensor"


def prompt_text(
    tokenizer: "PreTrainedTokenizerBase", question: str, system: str | None = None
) -> str:
    """What the model reads before it answers one question: the chat template, filled in."""
    messages: list[Message] = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode_row(
    tokenizer: "PreTrainedTokenizerBase", problems: list[Problem], system: str | None = None
) -> Row:
    """A conversation with one turn per problem; solutions weigh 1, all the rest little."""
    row = Row([], [])
    for i, problem in enumerate(problems):
        text = prompt_text(tokenizer, problem.question, system if i == 0 else None)
        asked = tokenizer.encode(text, add_special_tokens=False)
        solved = tokenizer.encode(problem.solution, add_special_tokens=False)
        solved.append(tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token)))
        row.token_ids.extend(asked + solved)
        row.weights.extend([QUESTION_WEIGHT] * len(asked) + [1.0] * len(solved))
    return row


def rows(tokenizer: "PreTrainedTokenizerBase", seed: int) -> Iterator[Row]:
    """Endless conversations of the train split; a few have a system prompt or several turns.

    The longer ones train positions beyond the original context of YaRN.
    """
    rng = Random(f"rows:{seed}")
    problems = stream(seed, "train")
    while True:
        turns = rng.choices((1, 2, 4), weights=(90, 7, 3))[0]
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else None
        yield encode_row(tokenizer, list(islice(problems, turns)), system)


def batches(tokenizer: "PreTrainedTokenizerBase", *, seed: int, size: int) -> Iterator[Batch]:
    """Endless batches of `size` rows of similar length, in random order."""
    rng = Random(f"batches:{seed}")
    source = rows(tokenizer, seed)
    while True:
        pool = sorted(islice(source, size * POOL_BATCHES), key=lambda row: len(row.token_ids))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        yield from (pad(group) for group in groups)


def pad(group: list[Row]) -> Batch:
    import torch

    shape = (len(group), max(len(row.token_ids) for row in group))
    token_ids = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    for i, row in enumerate(group):
        length = len(row.token_ids)
        token_ids[i, :length] = torch.tensor(row.token_ids)
        mask[i, :length] = 1
        weights[i, :length] = torch.tensor(row.weights)
    return Batch(token_ids, mask, weights)
