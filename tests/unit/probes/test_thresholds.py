"""Rows long enough for a model's windows and scaling."""

from __future__ import annotations

from typing import Any

import pytest

from mismatch_lab.checkpoints.config import EMBEDDED
from mismatch_lab.errors import InputError
from mismatch_lab.probes.suites import load_probe
from mismatch_lab.probes.thresholds import (
    Threshold,
    count_tokens,
    lengthened,
    not_reached,
    prompts_of,
    thresholds,
    tokens_wanted,
)
from mismatch_lab.schema import Prompt, SideSpec

CONFIG: dict[str, Any] = {
    "sliding_window": 128,
    "rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 4096},
}


def engine(**args: Any) -> SideSpec:
    return SideSpec(side="infer", engine="vllm", model=EMBEDDED, dtype="float32", args=args)


def lengths(prompts: list[Prompt]) -> list[int]:
    return [count_tokens((p.messages or [])[0]["content"], EMBEDDED) for p in prompts]


def test_thresholds_of_a_model_and_its_engine_the_nearest_first() -> None:
    found = thresholds(CONFIG, {"max_num_batched_tokens": 2048, "block_size": 16})
    assert [t.tokens for t in found] == [16, 128, 2048, 4096]
    assert thresholds({"sliding_window": 128, "use_sliding_window": False}, {}) == []
    assert thresholds({"sliding_window": None, "rope_scaling": None}, {}) == []


def test_a_prompt_goes_a_tenth_past_the_furthest_threshold_that_it_can() -> None:
    known = thresholds(CONFIG, {})
    assert tokens_wanted(known, 8192, None) == 4506  # ceil(1.1 x 4096)
    assert tokens_wanted(known, 4500, None) == 141  # that one is too far: ceil(1.1 x 128)
    assert tokens_wanted(known, 100, None) == 0
    assert tokens_wanted(known, 100, 3000) == 3000


def test_prompts_are_filled_with_other_questions_until_they_are_long_enough() -> None:
    texts = ["one two three", "four five six seven"]
    prompt = Prompt(id="p", messages=[{"role": "user", "content": "last?"}])
    (longer,) = lengthened([prompt], texts, 40, EMBEDDED)
    content = (longer.messages or [])[0]["content"]
    assert content.startswith("one two three\n\nfour five six seven\n\none")
    assert content.endswith("\n\nlast?")
    assert count_tokens(content, EMBEDDED) >= 40
    assert lengthened([prompt], texts, 1, EMBEDDED) == [prompt]


def test_the_long_context_of_a_probe() -> None:
    probe = load_probe("long-context")
    usual = lengths(prompts_of(probe, engine()))
    assert min(usual) > 1.1 * 128  # the embedded model's window is 32, its original context 128
    assert min(lengths(prompts_of(probe, engine(), 800))) >= 800
    # A chunk of the engine's is one more: 600 tokens would not pass it.
    assert min(lengths(prompts_of(probe, engine(max_num_batched_tokens=720)))) >= 792


@pytest.mark.parametrize(("probe", "context", "says"), [
    ("quick", 100, "no long context"),
    ("long-context", 1024, "has 1024 positions"),
])  # fmt: skip
def test_a_context_that_cannot_be_had_is_refused(probe: str, context: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        prompts_of(load_probe(probe), engine(), context)


def test_what_no_row_reached_is_said_with_what_would() -> None:
    known = [Threshold(32, "the sliding window"), Threshold(100, "a chunk")]
    (said,) = not_reached(known, 100)
    assert said.startswith("No row goes past a chunk (100 tokens): the longest has 100.")
    assert "--context 111" in said
    assert not_reached(known, 101) == []
