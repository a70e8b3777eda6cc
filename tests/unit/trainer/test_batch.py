"""Episodes as tensors."""

import numpy as np
import torch

from mismatch_lab.trainer.batch import micro_batches, stack
from mismatch_lab.trainer.rollout import Answer
from mismatch_lab.trainer.tasks.base import Problem
from mismatch_lab.trainer.tasks.episodes import Episode

PROBLEM = Problem(({"role": "user", "content": "?"},))


def episode(turns: list[tuple[list[int], Answer]]) -> Episode[Answer]:
    """Given ids and an answer, turn by turn."""
    first = turns[0][0]
    made: Episode[Answer] = Episode(
        PROBLEM, len(first), list(first), [False] * len(first), [float("nan")] * len(first)
    )
    for number, (given, answer) in enumerate(turns):
        if number:
            made.append(given, None)
        made.append(answer.token_ids, answer.logp_infer)
        made.turns.append(answer)
    return made


def test_tool_tokens_are_masked_and_rows_are_padded() -> None:
    last = Answer([4, 5], [-0.25, -0.125], False)
    two_turns = episode([([1, 2], Answer([3], [-0.5], False)), ([7, 7], last)])
    cut = episode([([1], Answer([6], [-1.0], True))])
    cut.end = "truncated"
    batch = stack([two_turns, cut], torch.tensor([1.0, -1.0]))
    assert batch.ids.tolist() == [[1, 2, 3, 7, 7, 4, 5], [1, 6, 0, 0, 0, 0, 0]]
    assert batch.mask.tolist() == [[0, 0, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0]]
    assert batch.logp_infer.tolist() == [
        [0, 0, -0.5, 0, 0, -0.25, -0.125],
        [0, -1, 0, 0, 0, 0, 0],
    ]
    mask = batch.attention_mask()
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [7, 2]
    assert batch.truncated is not None
    assert batch.truncated.tolist() == [False, True]
    assert batch.take([1]).ids.tolist() == [[1, 6]]
    assert batch.take([1]).truncated == torch.tensor([True])
    assert batch.take([1]).attention_mask() is None


def test_routing_of_the_last_turn_covers_the_row() -> None:
    routing = np.arange(5 * 1 * 2, dtype=np.int16).reshape(5, 1, 2)
    last = Answer([4], [-1.0], False, routing=routing)
    first = Answer([3], [-1.0], False, routing=routing[:3])
    batch = stack([episode([([1, 2], first), ([7], last)])], torch.zeros(1))
    assert batch.routing is not None
    assert batch.routing[0].tolist() == routing.tolist()


def test_support_stands_at_the_sampled_tokens_only() -> None:
    support = np.array([[True, False, True], [False, True, False]])
    row = episode([([0], Answer([2, 1], [-1.0, -1.0], False, support=support))])
    batch = stack([row], torch.zeros(1))
    assert batch.support is not None
    assert batch.support[0].tolist() == [[True] * 3, *support.tolist()]


def test_micro_batches_put_like_lengths_together() -> None:
    lengths = torch.tensor([5, 1, 4, 2, 3])
    assert micro_batches(lengths, [0, 1, 2, 3, 4], 2) == [[1, 3], [4, 2], [0]]
    assert micro_batches(lengths, [], 2) == []
