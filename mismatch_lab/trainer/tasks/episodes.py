"""Roll-outs, turn by turn, token in and token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from mismatch_lab.errors import EngineError
from mismatch_lab.trainer.tasks.base import Problem, Reply, Task
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

NAN = float("nan")


@dataclass(frozen=True)
class Sampled:
    """One answer as the engine sampled it; subclass it to keep more (router choices)."""

    token_ids: list[int]
    """With the end-of-turn token, unless it is truncated."""
    logp_infer: list[float]
    truncated: bool
    """Whether it ran out of room before its end."""


S = TypeVar("S", bound=Sampled)
End = Literal["answered", "truncated", "turns", "context"]
"""How an episode ended: with an answer; with one that ran out of room; at the last turn; with a
reply that fits no more into the context."""


@dataclass
class Episode(Generic[S]):
    """A prompt, the answers to it, and the tool's replies between them, as one sequence."""

    problem: Problem
    prompt_length: int
    token_ids: list[int]
    sampled: list[bool]
    """True where the engine sampled the token: only these count in the loss."""
    logp_infer: list[float]
    """NaN where nothing was sampled."""
    turns: list[S] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    end: End | None = None

    @property
    def ran_out_of_room(self) -> bool:
        """Whether the model might have had more to say."""
        return self.end in ("truncated", "context")

    def append(self, ids: list[int], logp_infer: list[float] | None) -> None:
        """Add sampled tokens with their log-probs, or given ones with None."""
        self.token_ids += ids
        self.sampled += [logp_infer is not None] * len(ids)
        self.logp_infer += [NAN] * len(ids) if logp_infer is None else logp_infer


Sample = Callable[[list[list[int]], list[int]], list[S]]
"""(contexts, room for each answer in tokens) -> answers, in order."""


def roll_out(
    task: Task,
    problems: Sequence[Problem],
    tokeniser: TaskTokeniser,
    sample: Sample[S],
    *,
    new_tokens: int,
    context_length: int,
) -> list[Episode[S]]:
    """One episode per problem (list a problem n times for a group of n), in order.

    `new_tokens` is the room of one answer; an episode never grows beyond `context_length`.

    Raises:
        EngineError: a prompt leaves no room to answer, or the engine's answers do not fit.
    """
    episodes: list[Episode[S]] = [_start(p, tokeniser, context_length) for p in problems]
    for turn in range(1, task.turns_max + 1):
        active = [episode for episode in episodes if episode.end is None]
        if not active:
            break
        room = [min(new_tokens, context_length - len(e.token_ids)) for e in active]
        answers = sample([list(e.token_ids) for e in active], room)
        _take(active, answers, room, tokeniser)
        if turn == task.turns_max:
            break
        _reply(task, active, tokeniser, context_length)
    for episode in episodes:
        if episode.end is None:
            episode.end = _last_word(episode, "answered" if task.turns_max == 1 else "turns")
    return episodes


def _start(problem: Problem, tokeniser: TaskTokeniser, context_length: int) -> Episode[S]:
    ids = tokeniser.prompt_ids(problem)
    if len(ids) >= context_length:
        raise EngineError(
            f"A prompt of {len(ids)} tokens leaves no room in a context of {context_length}.",
            "Take a model with a longer context, or shorter problems.",
        )
    return Episode(problem, len(ids), ids, [False] * len(ids), [NAN] * len(ids))


def _take(
    active: list[Episode[S]], answers: list[S], room: list[int], tokeniser: TaskTokeniser
) -> None:
    for episode, answer, limit in zip(active, answers, room, strict=True):
        n = len(answer.token_ids)
        if not 0 < n <= limit or n != len(answer.logp_infer):
            raise EngineError(
                f"The engine gave {n} tokens and {len(answer.logp_infer)} log-probs "
                f"where 1 to {limit} tokens were asked for."
            )
        episode.append(answer.token_ids, answer.logp_infer)
        episode.turns.append(answer)
        episode.answers.append(tokeniser.text(answer.token_ids))


def _reply(
    task: Task, active: list[Episode[S]], tokeniser: TaskTokeniser, context_length: int
) -> None:
    replies = task.replies([episode.answers[-1] for episode in active])
    for episode, reply in zip(active, replies, strict=True):
        if reply is None:
            episode.end = _last_word(episode, "answered")
            continue
        ids = tokeniser.reply_ids(reply.text, episode.token_ids[-1], episode.turns[-1].truncated)
        # Nothing is appended that the model could not answer to.
        if len(episode.token_ids) + len(ids) >= context_length:
            episode.end = "context"
            continue
        episode.append(ids, None)
        episode.replies.append(reply)


def _last_word(episode: Episode[S], otherwise: End) -> End:
    return "truncated" if episode.turns[-1].truncated else otherwise
