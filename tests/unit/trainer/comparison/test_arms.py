"""Arms name things that exist, and change what they say."""

from __future__ import annotations

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.comparison.arms import ARMS, arm_config, parse_arms
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.run import check


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_run_that_the_trainer_takes(name: str) -> None:
    config = arm_config(TrainConfig(), name, 5)
    check(config)
    assert config.seed == 5
    assert config.faults == ARMS[name].faults
    assert config.fixes == ARMS[name].fixes


def test_an_arm_that_mends_another_is_that_one_but_for_its_fixes() -> None:
    mending = {name: ARMS[arm.mends] for name, arm in ARMS.items() if arm.mends}
    assert len(mending) == 5
    for name, mended in mending.items():
        assert ARMS[name].faults == mended.faults
        assert set(mended.fixes) < set(ARMS[name].fixes)
        assert mended.settings.items() <= ARMS[name].settings.items()


def test_what_the_names_promise_is_what_is_planted() -> None:
    assert plan_run(arm_config(TrainConfig(), "top-p", 0)).sampling == {"top_p": 0.8}
    assert plan_run(arm_config(TrainConfig(), "stale-weights", 0)).lag_steps == 8
    assert arm_config(TrainConfig(), "bf16-routing-replay", 0).dtype == "bfloat16"
    correction = arm_config(TrainConfig(), "broken-is", 0).correction
    assert (correction.kind, correction.level) == ("truncate", "sequence")
    assert arm_config(TrainConfig(), "healthy", 0) == TrainConfig()


def test_an_arm_keeps_the_other_settings_of_its_section_and_the_base_s_faults() -> None:
    base = read_config(
        None, {"correction.high": 5.0, "faults": ["router-bf16"], "fixes": ["attention-sinks"]}
    )
    config = arm_config(base, "broken-is", 0)
    assert (config.correction.high, config.correction.level) == (5.0, "sequence")
    assert config.faults == ("router-bf16", "sinks-dropped")
    assert arm_config(base, "fixed", 0).fixes == ("attention-sinks",)  # once


def test_arms_by_name() -> None:
    assert parse_arms("broken, fixed,") == ("broken", "fixed")
    with pytest.raises(InputError, match=r"Unknown arm 'brokn'[^$]*Available: healthy, broken,"):
        parse_arms("brokn")
    with pytest.raises(InputError, match="names fixed twice"):
        parse_arms("fixed,fixed")
    with pytest.raises(InputError, match="no arm"):
        parse_arms(" ,")
