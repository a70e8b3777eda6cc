"""Tokens drawn from another distribution than is reported: 32 rows of 50 tokens out of 400.

Settings that a server samples with by itself: a verdict and a cause of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mismatch_lab.attribution.sampled_otherwise import (
    causes_of,
    inherited,
    own_settings,
    reported_nats,
    sampled_otherwise,
)
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.engines.assemble import RowRecord, assemble
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.draws import DrawsRecorder
from mismatch_lab.findings.drawn import disproved, measure_drawn, what_would_be_noticed
from mismatch_lab.schema import DrawnFindings, Manifest, Sampling, SuppositionRecord

ROWS, LENGTH, VOCABULARY = 32, 50, 400
Logits = NDArray[np.float64]
Changed = Callable[[Logits, list[int]], Logits]
"""(logits, answer so far) -> logits of what is sampled from"""


def unchanged(logits: Logits) -> Logits:
    return logits


@cache
def drawn(
    changed: Changed,
    seed: int = 0,
    model: Callable[[Logits], Logits] = unchanged,
    temperature: float = 1.0,
) -> DrawnFindings:
    """Peaked distributions, of 1.2 nats on average; the report is of the logits as they were."""
    rng = np.random.default_rng(seed)
    records, sequences = [], []
    for _ in range(ROWS):
        falling = -np.log(np.arange(1, VOCABULARY + 1))
        sharpness = rng.uniform(1.8, 3.0, (LENGTH, 1))
        logits = 10.0 + sharpness * falling + 1.2 * rng.standard_normal((LENGTH, VOCABULARY))
        logits = model(logits[:, rng.permutation(VOCABULARY)])
        answer: list[int] = []
        for row in logits:
            sharp = changed(row.copy(), answer)
            p = np.exp(sharp - sharp.max())
            answer.append(int(rng.choice(VOCABULARY, p=p / p.sum())))
        sequences.append(([0, *answer], logits))
    rows = Rows.build([ids for ids, _ in sequences], [1] * ROWS, [[False] + [True] * LENGTH] * ROWS)
    for row, (ids, logits) in enumerate(sequences):
        log_probs = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
        logp = np.append(np.nan, log_probs[np.arange(LENGTH), ids[1:]]).astype(np.float32)
        recorder = DrawsRecorder(rows, row, 1.0, torch.device("cpu"))
        records.append(RowRecord(logp, draws=recorder.record_of(torch.from_numpy(logits).float())))
    capture = assemble(rows, ScoreRequest(), records)
    found = measure_drawn(
        {"decode": capture, "prefill": capture}, Sampling(temperature=temperature)
    )
    assert found is not None
    return found


def ranked(logits: Logits) -> tuple[NDArray[np.int64], Logits]:
    """Tokens, the likeliest first, and the mass before each."""
    order = np.argsort(-logits)
    p = np.exp(logits[order] - logits.max())
    return order, (np.cumsum(p) - p) / p.sum()


def as_reported(logits: Logits, _so_far: list[int]) -> Logits:
    return logits


def temperature(value: float) -> Changed:
    return lambda logits, _: logits / value


def top_k(value: int) -> Changed:
    def cut(logits: Logits, _so_far: list[int]) -> Logits:
        logits[ranked(logits)[0][value:]] = -np.inf
        return logits

    return cut


def top_p(value: float) -> Changed:
    def cut(logits: Logits, _so_far: list[int]) -> Logits:
        order, before = ranked(logits)
        logits[order[before >= value]] = -np.inf
        return logits

    return cut


def min_p(value: float) -> Changed:
    def cut(logits: Logits, _so_far: list[int]) -> Logits:
        logits[logits < logits.max() + np.log(value)] = -np.inf
        return logits

    return cut


def repetition(value: float) -> Changed:
    def penalise(logits: Logits, so_far: list[int]) -> Logits:
        seen = np.unique([0, *so_far])
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / value, logits[seen] * value)
        return logits

    return penalise


def frequency(value: float) -> Changed:
    def penalise(logits: Logits, so_far: list[int]) -> Logits:
        return np.asarray(logits - value * np.bincount(so_far, minlength=VOCABULARY))

    return penalise


def presence(value: float) -> Changed:
    def penalise(logits: Logits, so_far: list[int]) -> Logits:
        return np.asarray(logits - value * (np.bincount(so_far, minlength=VOCABULARY) > 0))

    return penalise


def best(found: DrawnFindings) -> SuppositionRecord:
    return max(found.suppositions, key=lambda s: s.gain_nats)


@pytest.mark.parametrize(
    ("changed", "cause", "name", "value", "within"),
    [
        (temperature(0.77), "raw-logprobs-temperature", "temperature", 0.77, 0.06),
        (temperature(1.3), "raw-logprobs-temperature", "temperature", 1.3, 0.12),
        (top_k(7), "sampler-truncation", "top_k", 7, 0),
        (top_k(25), "sampler-truncation", "top_k", 25, 4),
        (top_k(33), "sampler-truncation", "top_k", 33, 5),
        (top_p(0.83), "sampler-truncation", "top_p", 0.83, 0.01),
        (top_p(0.95), "sampler-truncation", "top_p", 0.95, 0.01),
        (min_p(0.07), "sampler-truncation", "min_p", 0.07, 0.01),
        (presence(1.1), "sampling-penalties", "presence_penalty", 1.1, 0.4),
        (frequency(0.3), "sampling-penalties", "frequency_penalty", 0.3, 0.1),
        (repetition(1.2), "sampling-penalties", "repetition_penalty", 1.2, 0.1),
    ],
)
def test_how_tokens_were_drawn_is_named_with_its_number(
    changed: Changed, cause: str, name: str, value: float, within: float
) -> None:
    found = drawn(changed)
    assert disproved(found)
    likeliest = best(found)
    assert likeliest.name == name
    assert abs(likeliest.value - value) <= within + 1e-9
    assert likeliest.between[0] <= value <= likeliest.between[1]
    (named,) = sampled_otherwise(found)
    assert (named.id, named.side) == (cause, "infer")
    assert named.confirmed_by, "rows that the number was not chosen on say so too"


def test_a_token_that_cannot_be_drawn() -> None:
    # Token 5 is the likeliest of every other distribution, and banned: hundreds of draws missing.
    def lifted(logits: Logits) -> Logits:
        logits[::2, 5] = logits.max(axis=1)[::2]
        return logits

    def banned(logits: Logits, _so_far: list[int]) -> Logits:
        logits[5] = -np.inf
        return logits

    found = drawn(banned, 4, lifted)
    assert (best(found).name, best(found).value) == ("never_drawn", 1)
    assert best(found).noticed_above == pytest.approx(11.98 + 1 + np.log(VOCABULARY), abs=0.01)
    (named,) = sampled_otherwise(found)
    assert named.id == "sampler-truncation"
    assert "1 tokens that cannot be drawn" in named.why


@pytest.mark.parametrize("seed", range(6))
def test_tokens_drawn_as_reported_raise_no_alarm(seed: int) -> None:
    found = drawn(as_reported, seed)
    assert not disproved(found)
    assert sampled_otherwise(found) == []
    assert best(found).gain_nats < 7  # 8 families, each 7 nats once in 1100 runs


def test_what_would_have_been_noticed_is_and_what_would_not_is_not() -> None:
    """The limits that a healthy run states hold for runs that are not."""
    healthy = drawn(as_reported, seed=30)
    limits = {s.name: s for s in healthy.suppositions}
    sharpest = limits["temperature"].noticed_below
    assert 0.75 < sharpest < 0.95
    seen = [disproved(drawn(temperature(sharpest), seed)) for seed in range(40, 46)]
    assert sum(seen) >= 4  # 95 % each: 3 or fewer of 6 once in 450
    nearly = 1 - 0.3 * (1 - sharpest)
    assert not any(disproved(drawn(temperature(nearly), s)) for s in range(40, 43))
    assert disproved(drawn(top_p(limits["top_p"].noticed_below), 51))
    text = what_would_be_noticed(healthy)
    assert f"a temperature up to {sharpest:.3g} or from" in text
    assert f"top-p up to {limits['top_p'].noticed_below:.3g}," in text
    assert "in 1600 tokens (95%)" in text


def test_a_temperature_is_told_as_the_engine_would_be_asked_for_it() -> None:
    found = drawn(temperature(0.77), temperature=0.5)
    assert best(found).value == pytest.approx(0.385, abs=0.03)  # 0.77 of 0.5
    assert best(found).noticed_below < 0.5 < best(found).noticed_above


def test_without_distributions_nothing_is_said() -> None:
    rows = Rows.build([[0, 1]], [1], [[False, True]])
    bare = Capture(rows, np.array([np.nan, -1.0], np.float32))
    assert measure_drawn({"decode": bare, "prefill": bare}, Sampling()) is None
    assert sampled_otherwise(None) == []


def test_z_alone_disproves_a_report_and_names_nothing_it_cannot_explain() -> None:
    nothing = [
        SuppositionRecord(
            name="temperature", value=0.9, between=(0.85, 0.95), gain_nats=3.0, held_out_nats=1.0,
            noticed_below=0.8, noticed_above=1.2,
        )
    ]  # fmt: skip
    found = DrawnFindings(
        n=1000, n_impossible=0, z=4.2, z_limit=4.06, gain_limit_nats=12.0, suppositions=nothing
    )
    assert disproved(found)
    assert sampled_otherwise(found) == []  # z² / 2 is 8.8, of which 3 is no half
    assert not disproved(found.model_copy(update={"z": 3.9}))
    assert disproved(found.model_copy(update={"z": 0.0, "n_impossible": 1}))
    likely = [nothing[0].model_copy(update={"gain_nats": 8.0})]
    named = sampled_otherwise(found.model_copy(update={"suppositions": likely}))
    assert [cause.id for cause in named] == ["raw-logprobs-temperature"]
    assert named[0].confirmed_by == []


def test_causes_that_are_as_likely_are_tied() -> None:
    def record(name: str, nats: float) -> SuppositionRecord:
        return SuppositionRecord(
            name=name, value=0.5, between=(0.5, 0.5), gain_nats=nats, held_out_nats=nats / 2,
            noticed_below=np.nan, noticed_above=np.nan,
        )  # fmt: skip

    suppositions = [
        record("top_p", 30.0),
        record("min_p", 29.5),  # of the same cause
        record("temperature", 28.5),
        record("presence_penalty", 27.0),
    ]
    found = DrawnFindings(
        n=1000, n_impossible=0, z=7.0, z_limit=4.06, gain_limit_nats=12.0,
        suppositions=suppositions,
    )  # fmt: skip
    named = sampled_otherwise(found)
    assert [c.id for c in named] == ["sampler-truncation", "raw-logprobs-temperature"]
    assert {c.confidence for c in named} == {0.45}
    assert all(c.decides for c in named)


def test_an_engine_that_reports_what_its_sampling_does_wrong_draws_from_what_it_reports() -> None:
    found = drawn(top_p(0.83))
    gain = best(found).gain_nats
    assert sampled_otherwise(found, reported=gain - 5) == []
    assert sampled_otherwise(found, reported=-200.0), "reported worse still, as raw log-probs are"
    assert sampled_otherwise(found, named={"raw-logprobs-temperature"})
    assert sampled_otherwise(found, named={"sampler-truncation"}) == []


def test_what_the_report_gains_is_counted_over_drawn_tokens() -> None:
    rows = Rows.build([[0, 1, 2, 3]], [1], [[False, True, True, True]])
    decode = Capture(rows, np.array([np.nan, -1.0, -2.0, -np.inf], np.float32))
    prefill = Capture(rows, np.array([np.nan, -1.5, -2.25, -1.0], np.float32))
    assert reported_nats({"decode": decode, "prefill": prefill}) == pytest.approx(0.75)
    assert reported_nats({"decode": decode}) == 0.0


def manifest(**options: object) -> Manifest:
    """What the server said."""
    return Manifest.model_validate(
        {
            "id": "decode", "side": "infer", "engine": "http", "engine_version": "vllm 1",
            "model": "m", "dtype": "bfloat16", "sampling": None, "logprob_space": "raw",
            "patched": [], "host": "", "packages": {}, "rows": 1, "tokens": 2, "wall_s": 0.0,
            "arrays_sha256": "", "options": options,
        }
    )  # fmt: skip


def test_a_server_without_settings_of_its_own_spoils_nothing() -> None:
    found = own_settings(manifest(server="vllm", max_logprobs=20))
    assert found == {}
    assert inherited(found) == ""
    assert causes_of(found, set()) == []


def test_each_setting_is_of_a_cause_and_causes_are_named_once() -> None:
    shares = {"repetition_penalty": 0.4, "presence_penalty": 0.1, "top_k": 0.2}
    found = own_settings(manifest(**{f"inherits.{name}": v for name, v in shares.items()}))
    assert found == shares
    said = inherited(found)
    assert "a repetition penalty, a presence penalty, top-k" in said
    causes = {cause.id: cause for cause in causes_of(found, set())}
    assert set(causes) == {"sampling-penalties", "sampler-truncation"}
    penalties = causes["sampling-penalties"]
    assert [o.value for o in penalties.evidence] == [0.4, 0.1]
    assert (penalties.side, penalties.confirmed_by[0].before) == ("infer", 0.4)
    assert [c.id for c in causes_of(found, {"sampling-penalties"})] == ["sampler-truncation"]
