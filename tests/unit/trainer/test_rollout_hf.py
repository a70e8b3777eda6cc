"""Roll-outs by transformers: what they draw with, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.trainer.rollout import EngineSpec, SamplingParams
from mismatch_lab.trainer.rollout_hf import HfRollout

SPEC = EngineSpec(resolve_model_path(EMBEDDED), "float32", 512, "processed")


@pytest.fixture(scope="module")
def engine() -> HfRollout:
    torch.set_num_threads(1)
    return HfRollout(SPEC)


def test_turns_draw_with_numbers_of_their_own(engine: HfRollout) -> None:
    # The same contexts in turn 1 and in turn 2, flat enough (T = 2) for chance to decide.
    contexts, max_new_tokens = [[5, 17, 40 + row] for row in range(10)], [12] * 10
    before = torch.get_rng_state()

    def answers(**place: int) -> list[list[int]]:
        found = engine.sample(contexts, max_new_tokens, SamplingParams(2.0, seed=1, **place))
        return [answer.token_ids for answer in found]

    first, second = answers(step=2, turn=1), answers(step=2, turn=2)
    assert answers(step=2, turn=1) == first
    assert [a for a, b in zip(first, second, strict=True) if a == b] == []
    assert torch.equal(torch.get_rng_state(), before)  # the trainer's dropout draws from that one


def test_an_answer_says_whether_it_ran_out_of_room(engine: HfRollout) -> None:
    contexts = [[5, 17, 40], [5, 17, 40]]
    whole, cut = engine.sample(contexts, [200, 2], SamplingParams(0.0))
    assert (len(cut.token_ids), cut.truncated) == (2, True)
    assert whole.truncated == (whole.token_ids[-1] not in engine.eos_ids)
    assert len(whole.token_ids) == 200 or not whole.truncated


def test_sampling_fields_of_the_checkpoint_are_not_taken(engine: HfRollout, tmp_path: Path) -> None:
    contexts, max_new_tokens, sampling = (
        [[5, 17, 40 + row] for row in range(6)],
        [12] * 6,
        SamplingParams(1.0, seed=1),
    )
    plain = engine.sample(contexts, max_new_tokens, sampling)
    shutil.copytree(SPEC.folder, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    asked = {"min_p": 0.3, "top_k": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3}
    suppressed = {"suppress_tokens": [plain[0].token_ids[0]]}
    file.write_text(json.dumps(json.loads(file.read_text()) | asked | suppressed))
    other = HfRollout(replace(SPEC, folder=str(tmp_path / "model")))
    assert other.eos_ids == engine.eos_ids
    assert other.sample(contexts, max_new_tokens, sampling) == plain


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"logprob_space": "raw"}, "no raw log-probs"),
        ({"args": {"max_num_seqs": 3}}, "max_num_seqs"),
        ({"fixes": ("fp32-head",)}, "fp32-head"),
    ],
)
def test_what_it_cannot_do_is_refused(changed: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        HfRollout(EngineSpec(**{**vars(SPEC), **changed}))  # type: ignore[arg-type]
