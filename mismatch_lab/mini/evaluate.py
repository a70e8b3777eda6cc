"""Accuracy of a checkpoint on held-out problems: `python -m mismatch_lab.mini.evaluate`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.data import prompt_text
from mismatch_lab.mini.problems import LEVELS, Problem, generate, grade

if TYPE_CHECKING:
    from transformers import GptOssForCausalLM, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 96
BATCH_ROWS = 32


@dataclass(frozen=True)
class Accuracy:
    """How many of `n` completions gave exactly the right answer."""

    correct: int
    n: int

    @property
    def share(self) -> float:
        """Correct share; NaN where nothing was asked."""
        return self.correct / self.n if self.n else float("nan")


def load(folder: Path) -> tuple["GptOssForCausalLM", "PreTrainedTokenizerBase"]:
    """Model (float32, eager attention, evaluation mode) and tokenizer of a checkpoint."""
    import torch
    from transformers import AutoTokenizer, GptOssForCausalLM

    model = GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model, AutoTokenizer.from_pretrained(folder)


def complete(
    model: "GptOssForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    *,
    temperature: float,
) -> list[str]:
    """One completion per problem; temperature 0 is greedy, else the full distribution is sampled.

    Sampling uses torch's global generator.
    """
    import torch
    from transformers import GenerationConfig

    # transformers' own defaults would truncate to the top 50 tokens.
    free = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=temperature > 0,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **free,
    )
    texts: list[str] = []
    for start in range(0, len(problems), BATCH_ROWS):
        prompts = [prompt_text(tokenizer, p.question) for p in problems[start : start + BATCH_ROWS]]
        inputs = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        prompt_ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            ids = model.generate(  # type: ignore[misc]
                prompt_ids, attention_mask=mask, generation_config=config
            )
        new_ids = ids[:, prompt_ids.shape[1] :]
        texts.extend(tokenizer.batch_decode(new_ids, skip_special_tokens=True))
    return texts


def accuracy_by_level(problems: Sequence[Problem], texts: Sequence[str]) -> dict[int, Accuracy]:
    """Graded completions, per difficulty level; only levels that occur."""
    graded: dict[int, list[bool]] = {}
    for problem, text in zip(problems, texts, strict=True):
        graded.setdefault(problem.level, []).append(grade(text, problem.answer))
    return {level: Accuracy(sum(marks), len(marks)) for level, marks in sorted(graded.items())}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the evaluation."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m mismatch_lab.mini.evaluate")
    parser.add_argument("--model", type=Path, default=checkpoint_dir(), help="checkpoint folder")
    parser.add_argument("--n", type=int, default=300, help="held-out problems, all levels together")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=0, help="of the problems and of the sampling")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.model)
    problems = generate(args.n, seed=args.seed, split="heldout", levels=LEVELS)
    texts = complete(model, tokenizer, problems, temperature=args.temperature)
    levels = accuracy_by_level(problems, texts)
    for level, accuracy in levels.items():
        print(f"level {level}: {accuracy.correct} of {accuracy.n} = {accuracy.share:.3f}")
    total = Accuracy(sum(a.correct for a in levels.values()), sum(a.n for a in levels.values()))
    print(f"all: {total.correct} of {total.n} = {total.share:.3f}")


if __name__ == "__main__":
    main()
