"""Alterations act when an engine scores, where logits come of body and head apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.hf import HfEngine
from mismatch_lab.schema import Alteration, OptionValue, SideSpec

LENGTHS = (24, 13)


@pytest.fixture(scope="module")
def engine(
    tiny: Callable[[str], nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], HfEngine]:
    made: dict[str, HfEngine] = {}

    def make(kind: str) -> HfEngine:
        if kind not in made:
            folder = tmp_path_factory.mktemp("model") / kind
            tiny(kind).save_pretrained(folder)  # type: ignore[operator]
            args: dict[str, OptionValue] = {
                "attn_implementation": "eager",
                "experts_implementation": "eager",
                "device": "cpu",
            }
            made[kind] = HfEngine(
                SideSpec(side="ref", engine="hf", model=str(folder), dtype="float32", args=args)
            )
        return made[kind]

    return make


def scored(
    engine: HfEngine, *alterations: Alteration, micro_batch: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """([37] log-probs, [2, V] log-probs of the vocabulary at tokens 3 and 20)."""
    generator = np.random.default_rng(0)
    rows = Rows.build(
        [generator.integers(2, 40, n).tolist() for n in LENGTHS],
        [1, 1],
        [[False] + [True] * (n - 1) for n in LENGTHS],
    )
    request = ScoreRequest(
        probe_positions=np.array([3, 20]), alter=alterations, micro_batch=micro_batch
    )
    capture = engine.score(rows, request, lambda _done, _all: None)
    assert capture.probe_logp is not None
    return capture.logp, capture.probe_logp


def test_the_head_is_altered(engine: Callable[[str], HfEngine]) -> None:
    gemma = engine("gemma2")
    _, before = scored(gemma)
    for name, value in [("head_dtype", None), ("logits_dtype", None), ("final_softcap", 0)]:
        _, inside = scored(gemma, Alteration(name=name, value=value))
        assert not np.array_equal(inside, before), name
    assert np.array_equal(scored(gemma)[1], before)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sliding_window", 0), ("sliding_window", 4), ("drop_sinks", None), ("norm_topk", None)],
)
def test_the_body_is_altered_whatever_the_padding(
    engine: Callable[[str], HfEngine], name: str, value: OptionValue | None
) -> None:
    oss = engine("gpt_oss")
    alteration = Alteration(name=name, value=value)
    together, _ = scored(oss, alteration)
    apart, _ = scored(oss, alteration, micro_batch=1)
    np.testing.assert_allclose(together, apart, atol=1e-4)
    assert np.nanmax(np.abs(together - scored(oss)[0])) > 1e-2
