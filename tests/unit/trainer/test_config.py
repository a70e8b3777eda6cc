"""Settings of a run: every name is checked."""

from pathlib import Path

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.command import parse_setting
from mismatch_lab.trainer.config import TrainConfig, read_config
from mismatch_lab.trainer.planting import LAG_STEPS, check_faults, parse_fault, plan_run


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "retool"\nsteps = 7\n[optim]\nlr = 0.5\nmicro_batch = 3\n')
    config = read_config(file, {"optim.lr": 0.25, "fixes": ["cache-flush"]})
    assert (config.task, config.steps, config.fixes) == ("retool", 7, ("cache-flush",))
    assert (config.optim.lr, config.optim.micro_batch) == (0.25, 3)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"optim.learning_rate": 1.0}, "optim.learning_rate"),
        ({"stepz": 3}, "stepz"),
        ({"rollout.group": 1}, "rollout.group"),
        ({"loss.mean": "batch"}, "loss.mean"),
        ({"seed": -1}, "seed"),
        ({"rollout.args.max_model_len": 256}, "set by rollout.context_length"),
        ({"rollout.args.logprobs_mode": "raw_logprobs"}, "set by rollout.logprob_space"),
        ({"correction.kind": "icepop", "correction.level": "sequence"}, "not by sequence"),
        ({"correction.kind": "geometric", "correction.level": "token"}, "not by token"),
        ({"correction.low": 0.5}, "truncate has no lower bound"),
        ({"correction.kind": "mask", "correction.low": 3.0}, r"between the bounds \(3.0, 2.0\)"),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_config(None, overrides)


def test_settings_of_the_command_line() -> None:
    assert parse_setting("optim.lr=1e-3") == ("optim.lr", 1e-3)
    assert parse_setting("data.source=a=b.jsonl") == ("data.source", "a=b.jsonl")
    with pytest.raises(InputError, match="SECTION"):
        parse_setting("optim.lr")


def test_faults_have_severities() -> None:
    fault, severity = parse_fault("sinks-dropped")
    assert (fault.id, severity) == ("sinks-dropped", "plain")
    assert parse_fault("top-p:slight")[1] == "slight"
    with pytest.raises(InputError, match="hefty"):
        parse_fault("top-p:hefty")
    with pytest.raises(InputError, match="sinks-dropped"):
        parse_fault("sinks")


def test_options_of_the_engine_reach_the_rollout_and_not_the_trainer() -> None:
    plan = plan_run(TrainConfig(faults=("top-p",)))
    assert plan.sampling == {"top_p": pytest.approx(0.8)}
    assert plan.config.rollout.top_p == 1.0  # the trainer scores with the whole vocabulary


def test_raw_log_probs_at_another_temperature_which_the_trainer_knows() -> None:
    plan = plan_run(TrainConfig(faults=("raw-temperature",)))
    assert plan.config.rollout.logprob_space == "raw"
    assert plan.config.rollout.temperature == pytest.approx(0.6)
    assert plan.sampling == {}


def test_cache_flush_mends_the_stale_cache() -> None:
    broken = plan_run(TrainConfig(faults=("stale-prefix-cache",))).config.rollout
    assert (broken.flush_cache, broken.args["enable_prefix_caching"]) == (False, True)
    mended = plan_run(TrainConfig(faults=("stale-prefix-cache",), fixes=("cache-flush",)))
    assert mended.config.rollout.flush_cache
    assert mended.config.rollout.args["enable_prefix_caching"]  # the cache itself stays


def test_faults_that_are_of_the_trainer_the_engine_and_the_sync() -> None:
    plan = plan_run(
        TrainConfig(faults=("sinks-dropped", "engine-sinks-dropped", "stale-weights:slight"))
    )
    assert [fault.id for fault, _ in plan.trainer_faults] == ["sinks-dropped"]
    assert plan.engine_fault == ("engine-sinks-dropped", "plain")
    assert plan.lag_steps == LAG_STEPS["slight"] == 1


def test_a_fault_of_recorded_files_cannot_be_trained_with() -> None:
    with pytest.raises(InputError, match="shift-infer"):
        plan_run(TrainConfig(faults=("shift-infer",)))


def test_fp16_is_a_matter_of_configuration() -> None:
    assert plan_run(TrainConfig(fixes=("fp16",))).config.dtype == "float16"


def test_every_example_can_be_read() -> None:
    examples = sorted((Path(__file__).parents[3] / "examples").glob("train_*.toml"))
    assert examples
    for path in examples:
        assert read_config(path, {}).task in path.stem


def test_a_fault_in_a_part_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="type gpt_oss has no such part"):
        check_faults(TrainConfig(faults=("final-softcap",)))
    check_faults(TrainConfig(faults=("sinks-dropped", "top-p")))
