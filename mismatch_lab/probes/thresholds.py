"""How long a row must be for a model to show all it does: windows, scaling, chunks, blocks.

What is wrong beyond a threshold shows in no shorter row. Probes of long contexts go past those that
they can, and every report says which were not reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mismatch_lab.checkpoints.config import read_config, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.probes import suites
from mismatch_lab.schema import OptionValue, Probe, Prompt, SideSpec

PAST = 1.1
"""How far past a threshold rows go: a window is exceeded by more than a few answer tokens, so that
all of an answer lies beyond it."""

FURTHEST_TOKENS = 4096
"""As far as a probe goes by itself: a row of that length takes a small model seconds on a CPU."""

ROOM = 2
"""Answers' lengths that are left free: one for the answer, one for the template and for the last
question, which is put whole."""

CHARACTERS_PER_TOKEN = 5.0
"""Where there is no tokenizer to count with; more than English text has, so that rows are long
rather than short."""


@dataclass(frozen=True)
class Threshold:
    """A number of tokens beyond which a model or an engine does something else."""

    tokens: int
    what: str


def thresholds(config: Mapping[str, Any], args: Mapping[str, OptionValue]) -> list[Threshold]:
    """Of a checkpoint's config and the engine's options, the nearest first.

    Args:
        config: config.json, its language model's part.
        args: engine options as given.
    """
    found = []
    window = config.get("sliding_window")
    if isinstance(window, int) and config.get("use_sliding_window", True):
        found.append(Threshold(window, "the sliding window"))
    chunk = config.get("attention_chunk_size")
    if isinstance(chunk, int):
        found.append(Threshold(chunk, "a chunk of chunked attention"))
    for rope in (config.get("rope_parameters"), config.get("rope_scaling")):
        original = rope.get("original_max_position_embeddings") if isinstance(rope, dict) else None
        if isinstance(original, int):
            found.append(Threshold(original, "the original context of the rotary scaling"))
            break
    cut = args.get("max_num_batched_tokens", args.get("chunked_prefill_size"))
    if isinstance(cut, int) and cut > 0:
        found.append(Threshold(cut, "a chunk of the engine's prefill"))
    block = args.get("block_size", args.get("page_size"))
    if isinstance(block, int) and block > 0:
        found.append(Threshold(block, "a block of the engine's cache"))
    return sorted(found, key=lambda t: t.tokens)


def prompts_of(probe: Probe, infer: SideSpec, context: int | None = None) -> list[Prompt]:
    """A probe's prompts for one model; those of a long context go past its thresholds.

    Args:
        probe: whose prompts.
        infer: the engine, with its model.
        context: tokens of a prompt, where the user says how many.

    Raises:
        InputError: a context is asked of a probe that has none, or more than the model allows.
    """
    prompts = suites.probe_prompts(probe)
    if not probe.prompts.shots:
        if context is not None:
            raise InputError(
                f"--context: probe {probe.name} has no long context.", "Add --probe long-context."
            )
        return prompts
    texts, config = suites.shots(probe), read_config(infer.model)
    most = config.get("max_position_embeddings")
    room = math.inf if most is None else int(most) - ROOM * probe.sampling.max_tokens
    if context is not None and context > room:
        raise InputError(
            f"--context {context}: {infer.model} has {most} positions, and answers need some.",
            f"At most {max(1, int(room))}.",
        )
    usual = sum(count_tokens(text, infer.model) for text in texts)
    wanted = tokens_wanted(thresholds(config, infer.args), min(room, FURTHEST_TOKENS), context)
    tokens = wanted if context is not None else max(usual, wanted)
    return lengthened(prompts, texts, tokens, infer.model)


def tokens_wanted(known: list[Threshold], furthest: float, context: int | None) -> int:
    """Tokens of a prompt that goes past every threshold it can; 0 where there is none to pass.

    Args:
        known: of the model and the engine.
        furthest: tokens that a prompt may have.
        context: tokens that the user asks for (`--context`), whatever the thresholds.
    """
    if context is not None:
        return context
    past = [math.ceil(PAST * t.tokens) for t in known]
    return max((tokens for tokens in past if tokens <= furthest), default=0)


def lengthened(prompts: list[Prompt], texts: list[str], tokens: int, model: str) -> list[Prompt]:
    """Prompts with so many earlier questions before each that it has `tokens` tokens or more.

    Args:
        prompts: of one user turn each.
        texts: questions to put before them, over and over.
        tokens: at least.
        model: whose tokenizer counts.
    """
    size = [count_tokens(text, model) for text in texts]
    longer = []
    for index, prompt in enumerate(prompts):
        asked = "\n\n".join(m["content"] for m in prompt.messages or [])
        before: list[str] = []
        held, at = count_tokens(asked, model), index  # each prompt begins with another question
        while held < tokens:
            before.append(texts[at % len(texts)])
            held += size[at % len(texts)]
            at += 1
        content = "\n\n".join([*before, asked])
        longer.append(
            prompt.model_copy(update={"messages": [{"role": "user", "content": content}]})
        )
    return longer


def count_tokens(text: str, model: str) -> int:
    """Tokens of a text; an estimate where the checkpoint has no tokenizer.json."""
    tokenizer = _tokenizer(model)
    if tokenizer is None:
        return max(1, int(len(text) / CHARACTERS_PER_TOKEN))
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=2)
def _tokenizer(model: str) -> Any:
    file = Path(resolve_model_path(model)) / "tokenizer.json"
    try:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(file)) if file.is_file() else None
    except Exception:  # not installed, or of a form it does not read: the estimate serves
        return None


def not_reached(known: list[Threshold], longest: int) -> list[str]:
    """What no row was long enough for, in words.

    Args:
        known: of the model and the engine.
        longest: tokens of the longest row.
    """
    return [
        f"No row goes past {t.what} ({t.tokens} tokens): the longest has {longest}. What is wrong "
        f"beyond it was not seen; --probe long-context --context {math.ceil(PAST * t.tokens)} does."
        for t in known
        if longest <= t.tokens
    ]
