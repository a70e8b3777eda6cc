"""The embedded model on the tasks, through transformers."""

from __future__ import annotations

import json

import pytest

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.trainer.tasks.evaluate import HfSampler, main
from mismatch_lab.trainer.tasks.tokens import TaskTokeniser


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    lines = [line for line in capsys.readouterr().out.splitlines() if "(n = " in line]
    return {name: float(rest.split()[0]) for name, rest in (line.split(": ") for line in lines)}


def test_bare_questions_of_level_1_are_easy(capsys: pytest.CaptureFixture[str]) -> None:
    options = json.dumps({"levels": [1], "request": ""})
    main(["gsm8k", "--n", "12", "--temperature", "0", "--options", options])
    result = shown(capsys)
    # The model card: 97.6 % greedily; of 12, 8 is far below.
    assert result["reward"] >= 8 / 12
    assert result["reward"] == result["correct"] == result["level 1"]


def test_answers_end_and_keep_within_their_room() -> None:
    tokeniser = TaskTokeniser(str(checkpoint_dir()))
    sampler = HfSampler(str(checkpoint_dir()), tokeniser.eos_ids, temperature=0.0)
    questions = ["Tina has 4 eggs. Tina buys 5 more. How many eggs does Tina have now?"] * 2
    prompts = [f"<|user|>{question}<|end|><|assistant|>" for question in questions]
    contexts = [tokeniser._encode_text(prompt) for prompt in prompts]
    whole, cut = sampler(contexts, [64, 5])
    assert whole.token_ids[-1] in tokeniser.eos_ids
    assert not set(whole.token_ids[:-1]) & tokeniser.eos_ids
    assert cut.token_ids == whole.token_ids[:5]
    assert (whole.truncated, cut.truncated) == (False, True)
    assert "#### " in tokeniser.text(whole.token_ids)
