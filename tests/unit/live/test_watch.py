"""Which alarm goes off for what, on series made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.live.change import FALSE_ALARM_PER_1000_STEPS
from mismatch_lab.live.watch import (
    FALSE_ALARM_OF_A_RUN,
    KINDS,
    LASTING_STEPS,
    LIMIT_ESS,
    Alarm,
    Seen,
    Watch,
    limit_of,
)

HEALTHY = Seen(0, abs_delta_mean=0.02, ess=0.99, dropped_share=0.0, abs_delta_max=1.0)


def healthy(steps: int, seed: int = 0) -> list[Seen]:
    """A run whose mismatch wanders by 10 % around 0.02 nats."""
    rng = np.random.default_rng(seed)
    return [
        replace(
            HEALTHY,
            step=step,
            abs_delta_mean=0.02 * math.exp(0.1 * rng.standard_t(3)),
            ess=1 - 0.01 * math.exp(0.3 * rng.standard_normal()),
            learning_rate=1e-6,
        )
        for step in range(steps)
    ]


def alarms(run: list[Seen], limit_nats: float = 0.1) -> list[Alarm]:
    watch = Watch(limit_nats)
    return [alarm for seen in run for alarm in watch.update(seen)]


def test_a_healthy_run_is_left_alone() -> None:
    assert alarms(healthy(1000)) == []
    assert FALSE_ALARM_OF_A_RUN == 2 * FALSE_ALARM_PER_1000_STEPS  # mismatch and ess


def test_what_is_broken_from_the_first_step_alarms_after_three() -> None:
    run = [replace(seen, abs_delta_mean=1.9) for seen in healthy(200)]
    assert LASTING_STEPS == 3
    assert alarms(run) == [Alarm("above-limit", 2, 0, 1.9, 0.1)]  # and what lasts is said once
    assert alarms(run, limit_nats=2.0) == []


def test_a_single_odd_batch_is_none() -> None:
    run = healthy(300)
    run[100] = replace(run[100], abs_delta_mean=50.0, ess=0.01)
    run[200] = replace(run[200], abs_delta_mean=50.0, ess=0.01)
    assert alarms(run) == []


def test_a_jump_is_a_step_change_and_says_when_it_began() -> None:
    run = healthy(200)
    run[120:] = [replace(seen, abs_delta_mean=3 * seen.abs_delta_mean) for seen in run[120:]]
    (alarm,) = alarms(run)
    assert (alarm.kind, alarm.since) == ("step-change", 120)
    # log 3 is 1.1 or about 11 scales, cut off at 6: 24 / (6 - 2) = 6 steps.
    assert alarm.step == 125
    assert alarm.against == pytest.approx(0.02, rel=0.1)


def test_slow_growth_is_a_drift() -> None:
    run = healthy(600)
    grown = [
        replace(seen, abs_delta_mean=seen.abs_delta_mean * 1.01 ** (seen.step - 100))
        for seen in run[100:300]
    ]
    first = alarms(run[:100] + grown, limit_nats=10.0)[0]
    assert first.kind == "drift"
    # 1 % a step uses up the slack of 2 scales of about 0.1 in 20 steps, and 0.1 n² / 2 = 24 is 22.
    assert 120 <= first.step <= 165


def test_growth_at_zero_learning_rate_is_called_that() -> None:
    run = [replace(seen, learning_rate=0.0) for seen in healthy(200)]
    run[120:] = [replace(seen, abs_delta_mean=0.06) for seen in run[120:]]
    assert [alarm.kind for alarm in alarms(run)] == ["growth-at-zero-learning-rate"]
    # Where it is not known, weights may have changed.
    unknown = [replace(seen, learning_rate=None) for seen in run]
    assert [alarm.kind for alarm in alarms(unknown)] == ["step-change"]


def aged(fresh_too: bool) -> list[Seen]:
    """The sampling weights fall 8 updates behind; sequences as fresh as before are still seen."""
    run = [replace(s, largest_lag=1, fresh_abs_delta_mean=s.abs_delta_mean) for s in healthy(200)]
    for seen in run[120:]:
        grown = 0.06 if fresh_too else seen.fresh_abs_delta_mean
        new = replace(seen, largest_lag=8, abs_delta_mean=0.06, fresh_abs_delta_mean=grown)
        run[seen.step] = new
    return run


def test_staleness_is_told_from_a_mismatch_by_the_fresh_sequences() -> None:
    assert [alarm.kind for alarm in alarms(aged(fresh_too=False))] == ["staleness"]
    assert [alarm.kind for alarm in alarms(aged(fresh_too=True))] == ["step-change"]


def test_where_no_sequence_is_fresh_any_more_it_is_staleness() -> None:
    run = [replace(seen, fresh_abs_delta_mean=math.nan) for seen in aged(fresh_too=False)]
    run[:120] = aged(fresh_too=False)[:120]
    assert [alarm.kind for alarm in alarms(run)] == ["staleness"]


def test_a_fall_of_the_effective_sample_fraction() -> None:
    run = healthy(200)
    run[120:] = [replace(seen, ess=0.7) for seen in run[120:]]
    (alarm,) = alarms(run)
    # log((1 - 0.7 + 0.05) / (0.01 + 0.05)) = 1.76, which is far over 6 scales: 6 steps.
    assert (alarm.kind, alarm.since, alarm.step) == ("ess-fall", 120, 125)
    assert alarm.against == pytest.approx(0.99, abs=0.003)


def test_a_collapse_of_it_alarms_by_the_limit_first() -> None:
    run = healthy(200)
    run[10:] = [replace(seen, ess=0.3) for seen in run[10:]]
    assert alarms(run)[0] == Alarm("ess-low", 12, 10, 0.3, LIMIT_ESS)


def test_missing_log_probs_and_copies() -> None:
    gone = [replace(seen, dropped_share=0.05) for seen in healthy(10)]
    assert [alarm.kind for alarm in alarms(gone)] == ["not-finite"]
    same = [replace(s, abs_delta_mean=0.0, abs_delta_max=0.0, ess=1.0) for s in healthy(300)]
    assert [alarm.kind for alarm in alarms(same)] == ["copied"]
    # An engine that was made bitwise equal is held to that.
    assert alarms(same, limit_nats=0.0) == []
    assert [alarm.kind for alarm in alarms(healthy(10), limit_nats=0.0)] == ["above-limit"]


def test_nothing_measured_is_no_alarm() -> None:
    nan = math.nan
    run = [Seen(step, nan, nan, nan, nan) for step in range(100)]
    assert alarms(run) == []


def test_limits_by_dtype() -> None:
    assert limit_of("bfloat16") == limit_of("torch.bfloat16") == 0.1
    assert limit_of("float8_e4m3fn") == limit_of("fp8")
    assert limit_of("float32") < limit_of("float16") < limit_of("bfloat16") < limit_of("fp8")
    with pytest.raises(InputError, match="No limit is known for dtype 'int4'"):
        limit_of("int4")


@pytest.mark.parametrize("kind", KINDS)
def test_every_alarm_says_itself_in_a_sentence(kind: str) -> None:
    text = Alarm(kind, 7, 5, 0.123456, 0.1).text()
    assert "since step 5" in text
    assert ("0.123 nats against 0.1 nats" in text) == (not kind.startswith(("ess", "not", "cop")))
