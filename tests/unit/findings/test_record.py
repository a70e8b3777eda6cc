"""What a record says of itself, worked out by hand; and of real healthy ones, nothing.

The numbers in recorded/mini-gpt-oss-logprobs.npz are what real programs said of mini-gpt-oss's own
answers (`diagnose mini-gpt-oss`, quick): vLLM and FSDP, and transformers on both sides, which agree
to the last bit in 29 of 32 rows because they run the same code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hand_made import NAN, capture

from mismatch_lab.captures.capture import UNKNOWN_VERSION, Capture, Rows
from mismatch_lab.findings.record import examine, in_words, with_version
from mismatch_lab.run.compare import compare_findings
from mismatch_lab.schema import Limits, Manifest

REAL = np.load(Path(__file__).with_name("recorded") / "mini-gpt-oss-logprobs.npz")
HEALTHY = ("vllm-bfloat16", "vllm-float32", "hf-bfloat16")
ROWS, ANSWER = 8, 12


def real(run: str) -> tuple[Capture, Capture]:
    """Both sides of a healthy run; one prompt token a row."""
    lengths = np.bincount(REAL[f"{run}/rows"])
    ends = np.cumsum(lengths)
    sides = []
    for side in ("infer", "train"):
        logp = REAL[f"{run}/{side}"]
        rows = zip(ends, lengths, strict=True)
        sides.append(capture(*(logp[end - n : end].tolist() for end, n in rows)))
    return sides[0], sides[1]


def unlike() -> tuple[Capture, Capture]:
    """8 rows of 12 tokens at 1 to 2 nats, all multiples of 1/64, and the same 0.125 lower."""
    logp = [[-1.0 - row / 32 - at / 64 for at in range(ANSWER)] for row in range(ROWS)]
    return capture(*logp), capture(*([value - 0.125 for value in row] for row in logp))


def with_rows_of(train: Capture, infer: Capture, rows: list[int]) -> Capture:
    logp = train.logp.copy()
    for row in rows:
        start, stop = train.rows.row_offsets[row : row + 2]
        logp[start:stop] = infer.logp[start:stop]
    return replace(train, logp=logp)


def filled(base: Capture, where: list[int], value: float) -> Capture:
    logp = base.logp.copy()
    logp[np.flatnonzero(base.rows.sampled)[where]] = value
    return replace(base, logp=logp)


def versions_of(base: Capture, by_row: list[int]) -> Capture:
    return replace(base, versions=np.array(by_row, np.int64)[base.rows.row_ids()])


@pytest.mark.parametrize("run", HEALTHY)
def test_of_healthy_records_nothing_is_said(run: str) -> None:
    found = examine(*real(run))
    assert found.is_whole
    assert in_words(found.record) == []
    verdict = compare_findings(*real(run), ("a", "b"), Limits()).verdict
    assert [c.id for c in verdict.causes if c.confidence > 0.3] == []


@pytest.mark.parametrize("run", HEALTHY)
def test_certain_tokens_that_round_to_0_are_no_fill(run: str) -> None:
    """Probability 1 - 1e-6 and above comes out as exactly 0 in some programs: on each side where it
    is that near.
    """
    sides = [
        replace(side, logp=np.where(side.logp > -1e-6, np.float32(0), side.logp))
        for side in real(run)
    ]
    assert (sides[0].logp == 0).sum() > 100
    verdict = compare_findings(sides[0], sides[1], ("a", "b"), Limits()).verdict
    assert [c.id for c in verdict.causes if c.confidence > 0.3] == []
    # 1 % of tokens on top that were filled with 0: 12 of 1224, of which half are unsure.
    unsure = np.flatnonzero(sides[1].logp[sides[1].rows.sampled] < -0.05)[::30].tolist()
    lost = filled(sides[0], unsure, 0.0)
    found = compare_findings(lost, sides[1], ("a", "b"), Limits())
    (cause,) = found.verdict.causes
    assert (cause.id, cause.side, found.verdict.status) == ("missing-logprobs", "infer", "mismatch")


def test_rows_that_are_copies_are_left_out_and_counted() -> None:
    infer, train = unlike()
    found = examine(infer, with_rows_of(train, infer, [2, 5]))
    record = found.record
    assert (record.copied_rows, record.copied_tokens, record.compared_rows) == (2, 24, 6)
    assert record.equal_elsewhere == 0.0
    assert found.rows.tolist() == [0, 1, 3, 4, 6, 7]
    (said,) = in_words(record)
    assert said.startswith("In 2 of 8 rows both sides have the same log-probs to the last bit (24")


def test_all_rows_that_are_copies_leave_nothing() -> None:
    infer, _ = unlike()
    found = examine(infer, infer)
    assert (found.record.copied_rows, found.record.compared_rows) == (8, 0)


@pytest.mark.parametrize(
    ("rows", "tokens", "why"),
    [
        ([2], [], "one row may have been in the same batch"),
        ([], list(range(0, 96, 10)), "a handful of tokens, one or two a row"),
        ([2, 5], list(range(0, 96, 3)), "the others are equal at a third of tokens too"),
    ],
)
def test_what_is_equal_and_no_copy(rows: list[int], tokens: list[int], why: str) -> None:
    infer, train = unlike()
    train = with_rows_of(train, infer, rows)
    at = np.flatnonzero(train.rows.sampled)[tokens]
    logp = train.logp.copy()
    logp[at] = infer.logp[at]
    assert examine(infer, replace(train, logp=logp)).record.copied_rows == 0, why


def test_equal_certain_tokens_are_no_sign_of_a_copy() -> None:
    """Nearer to 0 than 0.01 nats float32 has few log-probs: 3 unsure tokens a row are too few."""
    logp = [[-1e-6] * 20 + [-1.0 - row / 32] * 3 for row in range(ROWS)]
    infer = capture(*logp)
    train = capture(*([*row[:20], *(value - 0.125 for value in row[20:])] for row in logp))
    assert examine(infer, with_rows_of(train, infer, [2, 5])).record.copied_rows == 0


def test_copies_in_real_records_are_found() -> None:
    for run in ("vllm-bfloat16", "vllm-float32"):
        infer, train = real(run)
        found = examine(infer, with_rows_of(train, infer, [0, 7, 14, 21, 28])).record
        assert found.copied_rows == 5, run


def test_a_row_that_is_there_again_counts_once() -> None:
    row = [-1.0, -2.0, -0.5]
    rows = Rows.build([[9, 1, 2, 3]] * 3, [1] * 3, [[False, True, True, True]] * 3)
    infer = Capture(rows, np.array([NAN, *row] * 3, np.float32))
    train = Capture(rows, np.array([NAN, -1.5, -2.5, -0.75] * 2 + [NAN, -1.5, -2.5, -1.0], "f4"))
    found = examine(infer, train)  # the third row is another measurement of the same tokens
    assert (found.record.repeated_rows, found.rows.tolist()) == (1, [0, 2])
    assert in_words(found.record)[0].startswith("1 of 3 rows are there again to the last bit")


def staleness(by_row: list[int], trainer: int | None = None) -> tuple[Capture, Capture]:
    """Rows whose delta is 0.125 at version 3, 0.25 at 2 and 0.5 at 1."""
    infer, _ = unlike()
    off = {3: 0.125, 2: 0.25, 1: 0.5, UNKNOWN_VERSION: 0.125}
    lower = np.array([off[v] for v in by_row])[infer.rows.row_ids()]
    train = replace(infer, logp=(infer.logp - lower).astype(np.float32))
    if trainer is not None:
        train = versions_of(train, [trainer] * ROWS)
    return versions_of(infer, by_row), train


def test_staleness_is_told_from_mismatch_by_the_lag() -> None:
    found = examine(*staleness([3, 3, 3, 2, 2, 1, 1, 1], trainer=3))
    lags = [(r.lag, r.rows, r.abs_delta_mean.value) for r in found.record.lags]
    assert lags == [(0, 3, 0.125), (1, 2, 0.25), (2, 3, 0.5)]
    assert found.record.grows
    assert (found.record.behind, found.record.stale_rows) == ("trainer", 5)
    assert found.rows.tolist() == [0, 1, 2]
    (said,) = in_words(found.record)
    assert "mismatch is what is there at lag 0, the growth is staleness" in said


def test_without_a_row_at_lag_0_nothing_tells_them_apart() -> None:
    record = examine(*staleness([2, 2, 2, 2, 1, 1, 1, 1], trainer=3)).record
    assert (record.lags[0].lag, record.compared_rows) == (1, 4)
    assert "mismatch cannot be told from it" in in_words(record)[0]


def test_without_the_trainers_version_lags_count_from_the_newest() -> None:
    record = examine(*staleness([3, 3, 3, 2, 2, 1, 1, 1])).record
    assert record.behind == "newest"
    assert [r.lag for r in record.lags] == [0, 1, 2]


def test_rows_of_an_unknown_version_are_not_compared_with_those_that_are_known() -> None:
    found = examine(*staleness([3, 3, 3, 3, 3, 3, UNKNOWN_VERSION, 1], trainer=3))
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.record.stale_rows == 2
    assert [r.lag for r in found.record.lags] == [0, 2]


def test_a_row_of_several_versions_is_as_old_as_its_oldest() -> None:
    infer, train = staleness([3] * ROWS, trainer=3)
    assert infer.versions is not None
    mixed = infer.versions.copy()
    mixed[3] = 1  # one token of the first row
    record = examine(replace(infer, versions=mixed), train).record
    assert [(r.lag, r.rows) for r in record.lags] == [(0, 7), (2, 1)]


def test_one_lag_alone_has_nothing_to_say() -> None:
    record = examine(*staleness([3] * ROWS, trainer=3)).record
    assert in_words(record) == []
    assert record.compared_rows == ROWS


def test_a_loss_mask_that_hides_the_worst_is_said() -> None:
    infer, train = staleness([3, 3, 3, 3, 3, 1, 1, 1])
    infer = replace(infer, versions=None)
    loss = (infer.rows.row_ids() < 5) & infer.rows.sampled
    mask = examine(replace(infer, loss_mask=loss), train).record.mask
    assert mask is not None
    assert (mask.rows, mask.hides) == (3, True)
    assert (mask.left_out.value, mask.in_loss.value) == (0.5, 0.125)
    assert (mask.left_out.n, mask.in_loss.n) == (36, 60)
    # The other way round nothing is hidden.
    others = replace(infer, loss_mask=~loss & infer.rows.sampled)
    record = examine(others, train).record
    assert record.mask is not None
    assert not record.mask.hides
    assert "no worse" in in_words(record)[0]
    assert examine(replace(infer, loss_mask=infer.rows.sampled), train).record.mask is None


def test_a_version_of_the_manifest_is_that_of_every_token() -> None:
    infer, _ = unlike()
    assert with_version(infer, None, "infer").versions is None
    options = {"weight_version_infer": 7, "weight_version_train": 9}
    said = Manifest.model_construct(options=options)
    versions = with_version(infer, said, "train").versions
    assert versions is not None
    assert set(versions.tolist()) == {9}
    own = versions_of(infer, [1] * ROWS)
    assert with_version(own, said, "infer") is own


@pytest.mark.parametrize(
    ("equal", "copied"),
    # Of each packed row the first, which saw nobody: what one program says twice. Another row among
    # them, or only some of the first, are copies.
    [([0, 2, 4, 6], 0), ([0, 2, 4, 6, 7], 5), ([0, 2, 4], 3)],
)
def test_first_sequences_of_packed_rows_are_no_copies(equal: list[int], copied: int) -> None:
    infer, train = unlike()
    packs = np.array([[row // 2, row % 2] for row in range(ROWS)])
    said = with_rows_of(train, infer, equal)
    assert examine(infer, replace(said, packs=packs)).record.copied_rows == copied
    assert examine(infer, said).record.copied_rows == len(equal)
