"""transformers as the engine that samples: what it takes from the checkpoint, and what not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.errors import NoRoomError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import Alteration, Prompt, Sampling, SideSpec

END, EQUALS = 1, 270
"""`<|end|>`, and ` =`, which stands in every worked solution."""
QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have now?"
PROMPTS = [Prompt(id=f"p{i}", messages=[{"role": "user", "content": QUESTION}]) for i in range(4)]


def sampled(folder: Path, **fields: object) -> Capture:
    """With these fields in generation_config.json."""
    shutil.copytree(checkpoint_dir(), folder)
    (folder / "generation_config.json").write_text(json.dumps(fields))
    spec = SideSpec(side="infer", engine="hf", model=str(folder), dtype="float32")
    return HfEngine(spec).generate(PROMPTS, Sampling(max_tokens=40, seed=1), lambda *_: None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return sampled(tmp_path_factory.mktemp("plain") / "mini", eos_token_id=END)


def test_sampling_fields_of_the_checkpoint_are_not_taken(plain: Capture, tmp_path: Path) -> None:
    asked = {"min_p": 0.3, "no_repeat_ngram_size": 2, "suppress_tokens": [EQUALS], "top_k": 2}
    other = sampled(tmp_path / "mini", eos_token_id=END, **asked)
    np.testing.assert_array_equal(other.rows.token_ids, plain.rows.token_ids)
    np.testing.assert_array_equal(other.logp, plain.logp)


def test_answers_end_at_each_of_its_ends(plain: Capture, tmp_path: Path) -> None:
    assert EQUALS in plain.rows.token_ids[plain.rows.sampled]
    rows = sampled(tmp_path / "mini", eos_token_id=[END, EQUALS]).rows
    lasts = rows.row_offsets[1:] - 1
    assert (rows.token_ids[lasts] == EQUALS).all()
    ends = np.isin(rows.token_ids, [END, EQUALS]) & rows.sampled
    np.testing.assert_array_equal(np.flatnonzero(ends), lasts)


def test_an_altered_model_without_room_is_said_and_the_model_goes_on() -> None:
    spec = SideSpec(side="ref", engine="hf", model=str(checkpoint_dir()), dtype="float32")
    engine = HfEngine(spec)
    rows = Rows.build([list(range(5, 25))], [1], [[False] + [True] * 19])
    plain = ScoreRequest()
    expected = engine.score(rows, plain, lambda *_: None).logp
    model = engine.scorer.parts.model
    forward = model.forward

    def full(*_args: object, **_kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.96 GiB.")

    model.forward = full
    with pytest.raises(NoRoomError, match=r"drop_sinks: .*3\.96 GiB"):
        engine.score(rows, ScoreRequest(alter=(Alteration(name="drop_sinks"),)), lambda *_: None)
    with pytest.raises(torch.OutOfMemoryError):  # without its run there is nothing to say
        engine.score(rows, plain, lambda *_: None)
    model.forward = forward
    np.testing.assert_array_equal(engine.score(rows, plain, lambda *_: None).logp, expected)
