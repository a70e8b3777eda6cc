"""Reward of a checkpoint on a task's held-out problems, by transformers alone:
`python -m mismatch_lab.trainer.tasks.evaluate gsm8k`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.trainer.tasks import TASKS, load_task
from mismatch_lab.trainer.tasks.base import Reward
from mismatch_lab.trainer.tasks.episodes import NAN, Episode, Sampled, roll_out
from mismatch_lab.trainer.tasks.sources import Source
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_ROWS = 32


class HfSampler:
    """Samples with transformers in float32; log-probs are not kept (NaN)."""

    def __init__(self, model: str, eos_ids: set[int], temperature: float) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        )
        self._model: Any = loaded.eval()  # type: ignore[no-untyped-call]
        self._eos_ids = sorted(eos_ids)
        self._temperature = temperature

    def __call__(self, contexts: list[list[int]], room: list[int]) -> list[Sampled]:
        """One answer per context. Sampling uses torch's global generator."""
        answers: list[Sampled] = []
        for start in range(0, len(contexts), BATCH_ROWS):
            chunk = slice(start, start + BATCH_ROWS)
            answers += self._sample(contexts[chunk], room[chunk])
        return answers

    def _sample(self, contexts: list[list[int]], room: list[int]) -> list[Sampled]:
        import torch
        from transformers import GenerationConfig

        width, pad = max(map(len, contexts)), self._eos_ids[0]
        ids = torch.tensor([[pad] * (width - len(c)) + c for c in contexts])
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])
        free = {"temperature": self._temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=self._temperature > 0,
            max_new_tokens=max(room),
            eos_token_id=self._eos_ids,
            pad_token_id=pad,
            **(free if self._temperature > 0 else {}),
        )
        with torch.no_grad():
            made = self._model.generate(ids, attention_mask=mask, generation_config=config)
        answers = [
            self._cut(row)[:n] for row, n in zip(made[:, width:].tolist(), room, strict=True)
        ]
        return [
            Sampled(answer, [NAN] * len(answer), answer[-1] not in self._eos_ids)
            for answer in answers
        ]

    def _cut(self, ids: list[int]) -> list[int]:
        """Up to the end-of-turn token, which stays; what follows is padding."""
        ends = [i for i, token in enumerate(ids) if token in self._eos_ids]
        return ids[: ends[0] + 1] if ends else ids


def summary(rewards: Sequence[Reward], episodes: Sequence[Episode[Sampled]]) -> list[str]:
    """Mean reward, its parts, the mean reward of each kind of problem, and how long answers are."""
    lines = [_line("reward", [reward.value for reward in rewards])]
    for part in rewards[0].parts:
        lines.append(_line(part, [reward.parts[part] for reward in rewards]))
    for kind in sorted({episode.problem.kind for episode in episodes}):
        pairs = zip(rewards, episodes, strict=True)
        lines.append(_line(kind, [r.value for r, e in pairs if e.problem.kind == kind]))
    lines.append(_line("sampled tokens", [float(sum(e.sampled)) for e in episodes]))
    lines.append(_line("truncated", [float(e.ran_out_of_room) for e in episodes]))
    return lines


def _line(name: str, values: list[float]) -> str:
    return f"{name}: {sum(values) / len(values):.3f} (n = {len(values)})"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the evaluation."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m mismatch_lab.trainer.tasks.evaluate")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--model", default=EMBEDDED, help="checkpoint folder")
    parser.add_argument(
        "--data", default=Source.name, help="generated, a .jsonl file or a hub name"
    )
    parser.add_argument("--n", type=int, default=200, help="held-out problems")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--options", type=json.loads, default={}, help="of the task, as JSON")
    parser.add_argument("--new-tokens", type=int, help="room of one answer")
    parser.add_argument("--context-length", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument("--show", type=int, default=0, help="print so many episodes")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    folder = resolve_model_path(args.model)
    task, tokeniser = load_task(args.task, args.options), TaskTokeniser(folder)
    sampler = HfSampler(folder, tokeniser.eos_ids, args.temperature)
    problems = task.problems(Source(args.data, n_heldout=args.n)).heldout
    episodes = roll_out(
        task,
        problems,
        tokeniser,
        sampler,
        new_tokens=args.new_tokens or task.new_tokens,
        context_length=args.context_length,
    )
    task.close()
    rewards = [task.reward(episode.problem, episode.answers) for episode in episodes]
    for episode in episodes[: args.show]:
        print(repr(tokeniser.transcript(episode.token_ids)), episode.end)
    print("\n".join(summary(rewards, episodes)))


if __name__ == "__main__":
    main()
