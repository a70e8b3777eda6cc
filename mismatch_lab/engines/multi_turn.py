"""Sample answers turn by turn, token in and token out: no answer is ever tokenised again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.checkpoints.config import check_lengths
from mismatch_lab.engines.base import Progress
from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.schema import Prompt, Sampling

SampleTurn = Callable[[list[list[int]]], list[tuple[list[int], list[float]]]]
"""[prompt ids] -> [(sampled ids, their log-probs)], in order."""


WARM_TOKENS = 4
"""Sampled of every prompt before an update: caches then hold what the old weights made."""


def to_warm(prompts: list[Prompt], sampling: Sampling) -> tuple[list[Prompt], Sampling]:
    """What fills an engine's caches before an update: first turns alone, a few tokens each."""
    first = [prompt.model_copy(update={"follow_ups": []}) for prompt in prompts]
    few = min(WARM_TOKENS, sampling.max_tokens)
    return first, sampling.model_copy(update={"max_tokens": few})


@dataclass
class _Conversation:
    ids: list[int]
    prompt_length: int
    sampled: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)

    def extend(self, ids: list[int], logp: list[float] | None) -> None:
        self.ids = self.ids + ids
        self.sampled += [logp is not None] * len(ids)
        self.logp += logp if logp is not None else [float("nan")] * len(ids)


def sample_conversations(
    prompts: list[Prompt],
    tokeniser: Tokeniser,
    sample: SampleTurn,
    max_tokens: int,
    context_length: int,
    model: str,
    progress: Progress,
) -> Capture:
    """Answer every prompt, then every follow-up, and keep the ids as they were.

    Raises:
        InputError: a prompt does not fit into the context.
    """
    started = [tokeniser.encode_prompt(prompt) for prompt in prompts]
    talks = [
        _Conversation(ids, len(ids), [False] * len(ids), [float("nan")] * len(ids))
        for ids in started
    ]
    turns = 1 + max(len(prompt.follow_ups) for prompt in prompts)
    for turn in range(turns):
        active = [
            talk
            for talk, prompt in zip(talks, prompts, strict=True)
            if len(prompt.follow_ups) >= turn
        ]
        if turn:
            texts = [p.follow_ups[turn - 1] for p in prompts if len(p.follow_ups) >= turn]
            for talk, text in zip(active, texts, strict=True):
                talk.extend(tokeniser.encode_follow_up(text, talk.ids[-1]), None)
        check_lengths([len(talk.ids) for talk in active], max_tokens, context_length, model)
        answers = sample([talk.ids for talk in active])
        for talk, (ids, logp) in zip(active, answers, strict=True):
            talk.extend(ids, logp)
        progress(turn + 1, turns)
    rows = Rows.build(
        [t.ids for t in talks], [t.prompt_length for t in talks], [t.sampled for t in talks]
    )
    flat = np.array([value for talk in talks for value in talk.logp], np.float32)
    return Capture(rows, flat, token_text=tokeniser.text_of(set(rows.token_ids.tolist())))
