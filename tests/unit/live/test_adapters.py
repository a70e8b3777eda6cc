"""What adapters make of a framework's batch, on objects made as its own are, from its source.

TRL's own trainer is run in tests/e2e/test_trl.py, verl's own functions in test_verl.py. slime,
prime-rl and NeMo-RL cannot be installed here: they are imitated.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mismatch_lab.errors import InputError
from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.adapters import ADAPTERS, nemo_rl, prime_rl, say_untested, slime, trl
from mismatch_lab.live.adapters.from_environment import FOLDER, monitor_from_environment
from mismatch_lab.live.adapters.rows import joined, one_by_one
from mismatch_lab.run.recorded import read_record

UNTESTED = pytest.mark.filterwarnings("ignore:mismatch-lab's hook for")


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    text = (folder / f"metrics-rank-{rank}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def monitor(folder: Path) -> MismatchMonitor:
    return MismatchMonitor(folder, model="checkpoint", dtype="bfloat16")


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_imports_and_an_unknown_version_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module(ADAPTERS[name].module)
    monkeypatch.setattr("mismatch_lab.live.adapters.version", lambda _package: "99.1")
    with pytest.warns(
        UserWarning, match=f"mismatch-lab's hook for {name} was .*this is {name} 99.1"
    ):
        say_untested(name)


def test_a_version_that_was_run_is_not_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mismatch_lab.live.adapters.version", lambda _package: "1.16.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_untested("trl")


def test_rows_of_two_parts_are_joined_and_padded_on_the_right() -> None:
    found = joined(
        [np.array([7, 8]), np.array([9])],
        [np.array([1, 2]), np.array([3])],
        [np.array([1, 0]), np.array([1])],
        [np.array([-1.0, -2.0]), np.array([-3.0])],
        [np.array([-4.0, -5.0]), np.array([-6.0])],
    )
    assert found["token_ids"].tolist() == [[7, 8, 1, 2], [9, 3, 0, 0]]
    assert found["mask"].tolist() == [[False, False, True, False], [False, True, False, False]]
    assert found["logp_train"].tolist() == [[0, 0, -4, -5], [0, -6, 0, 0]]
    parts = [np.array([1, 2])], [np.array([1, 1])], [np.array([0.0])]
    with pytest.raises(InputError, match="Row 0 has 2 tokens after the prompt and 1 values"):
        joined([np.array([7])], *parts, [np.array([0.0, 0.0])])


def test_rows_of_lists_padded_and_nested_tensors() -> None:
    ragged = [torch.tensor([1, 2]), torch.tensor([3])]
    nested = torch.nested.as_nested_tensor(ragged, layout=torch.jagged)
    for given in (ragged, nested, [[1, 2], [3]]):
        assert [row.tolist() for row in one_by_one(given)] == [[1, 2], [3]]
    assert [row.tolist() for row in one_by_one(torch.tensor([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]


# TRL: prompts are padded on the left, answers on the right; a tool's token is none of the model's.
BATCH: dict[str, Tensor] = {
    "prompt_ids": torch.tensor([[7, 8], [0, 9]]),
    "prompt_mask": torch.tensor([[1, 1], [0, 1]]),
    "completion_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
    "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    "tool_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
    "sampling_per_token_logps": torch.tensor([[-1.0, 0.0, -2.0], [-3.0, -4.0, 0.0]]),
    "old_per_token_logps": torch.tensor([[-1.5, -9.0, -2.5], [-3.5, -4.5, -9.0]]),
}


class TrlTrainer:
    """What the hook asks of TRL's trainer."""

    def __init__(self, **more: Any) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.state = SimpleNamespace(global_step=3)
        self.args = SimpleNamespace(temperature=0.7, top_p=0.9, per_device_train_batch_size=2)
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}, {"lr": 1e-6}])
        self.use_vllm, self._last_loaded_step = True, 2
        self.output = {**BATCH, **more}

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return self.output

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, attention: Tensor, length: int, batch_size: int
    ) -> tuple[Tensor, None, None]:
        return BATCH["old_per_token_logps"], None, None


def test_trls_batch_is_prompt_and_completion() -> None:
    step = trl.observed(TrlTrainer(), BATCH, score=False).copied()
    assert step.token_ids is not None
    assert step.attention_mask is not None
    assert step.token_ids.tolist() == [[7, 8, 1, 2, 3], [0, 9, 4, 5, 0]]
    assert step.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    assert step.logp_infer[step.mask].tolist() == [-1, -2, -3, -4]
    assert step.logp_train[step.mask].tolist() == [-1.5, -2.5, -3.5, -4.5]
    assert step.lags is not None
    assert (step.number, step.lags.tolist(), step.learning_rate) == (3, [1, 1], 1e-6)
    assert (step.sampling.temperature, step.sampling.top_p) == (0.7, 0.9)


@UNTESTED
def test_trls_trainer_returns_what_it_did_and_evaluation_is_left_out(tmp_path: Path) -> None:
    trainer, watched = TrlTrainer(), monitor(tmp_path)
    trl.watch(trainer, watched)
    assert trainer._generate_and_score_completions([]) is trainer.output
    trainer.model.eval()
    trainer._generate_and_score_completions([])
    watched.close()
    (line,) = lines(tmp_path)
    assert line["decode_train/abs_delta_mean"] == 0.5


@UNTESTED
def test_where_trl_has_no_log_probs_it_is_said_once(tmp_path: Path) -> None:
    for missing, told in (
        ("sampling_per_token_logps", "no log-probs of what was sampled"),
        ("old_per_token_logps", "score=True"),
    ):
        trainer, watched = TrlTrainer(**{missing: None}), monitor(tmp_path)
        trl.watch(trainer, watched)
        with pytest.warns(UserWarning, match=told) as seen:
            assert trainer._generate_and_score_completions([]) is trainer.output
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer._generate_and_score_completions([])
        watched.close()
        assert len(seen) == 1
    scored = trl.observed(TrlTrainer(old_per_token_logps=None), {**BATCH}, score=True)
    assert scored.copied().logp_train[0].tolist() == [0, 0, -1.5, -9.0, -2.5]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for cached in (monitor_from_environment, slime._say_once, slime._shout):
        cached.cache_clear()
    yield tmp_path
    monitor_from_environment.cache_clear()


SLIME_ARGS = SimpleNamespace(hf_checkpoint="checkpoint", rollout_temperature=0.8, rollout_top_p=1.0)


def slime_data() -> dict[str, Any]:
    return {
        "tokens": [torch.tensor([7, 8, 1, 2, 3]), torch.tensor([9, 4, 5])],
        "response_lengths": [3, 2],
        "loss_masks": [torch.tensor([1, 0, 1]), torch.tensor([1, 1])],
        "rollout_log_probs": [torch.tensor([-1.0, 0.0, -2.0]), torch.tensor([-3.0, -4.0])],
        "log_probs": [torch.tensor([-1.5, -9.0, -2.5]), torch.tensor([-3.5, -4.5])],
    }


@UNTESTED
def test_slimes_samples(asked: Path) -> None:
    for rollout in range(3):
        slime.observe(SLIME_ARGS, rollout, slime_data())
        monitor_from_environment("slime", 0, "checkpoint").flush()
    (folder,) = asked.glob("alarm-*")
    record = read_record((folder,))
    infer, train = record.captures["decode"], record.captures["train"]
    assert infer.rows.token_ids.tolist() == [7, 8, 1, 2, 3, 9, 4, 5]
    assert train.logp[infer.rows.sampled].tolist() == [-1.5, -2.5, -3.5, -4.5]
    manifest = record.manifests["decode"]
    assert manifest.sampling is not None
    assert (manifest.model, manifest.sampling.temperature) == ("checkpoint", 0.8)


@UNTESTED
@pytest.mark.parametrize(
    ("given", "told"),
    [((), "hands its hook no data"), ((4, {"tokens": []}), "no rollout_log_probs")],
)
def test_slime_without_data_is_told_once(asked: Path, given: tuple[Any, ...], told: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            slime.observe(SLIME_ARGS, *given)
    assert len([one for one in seen if told in str(one.message)]) == 1


NEMO: dict[str, Any] = {
    "token_ids": torch.tensor([[7, 8, 1, 2], [9, 4, 0, 0]]),
    "token_loss_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]]),
    "input_lengths": torch.tensor([4, 2]),
    "sample_loss_mask": torch.tensor([1, 0]),
    "generation_logprobs": torch.tensor([[0, 0, -1.0, -2.0], [0, -3.0, 0, 0]]),
    "prev_logprobs": torch.tensor([[0, -9.0, -1.5, -2.5], [0, -3.5, 0, 0]]),
}


@UNTESTED
def test_nemo_rls_logger_logs_as_before_and_training_batches_are_observed(tmp_path: Path) -> None:
    logged: list[str] = []
    logger = SimpleNamespace(log_batched_dict_as_jsonl=lambda _batch, name: logged.append(name))
    watched = monitor(tmp_path)
    nemo_rl.watch(logger, watched, temperature=0.7)
    for name in ("exp/train_data_step5.jsonl", "exp/val_data_step5.jsonl"):
        logger.log_batched_dict_as_jsonl(NEMO, name)
    watched.close()
    assert logged == ["exp/train_data_step5.jsonl", "exp/val_data_step5.jsonl"]
    (line,) = lines(tmp_path)
    # The second row too, which sample_loss_mask has dropped.
    assert (line["step"], line["decode_train/n"]) == (5, 3)
    assert line["decode_train/abs_delta_mean"] == pytest.approx(0.5)


def test_nemo_rls_zeros_are_no_measurement() -> None:
    with pytest.raises(InputError, match="prev_logprobs are zeros"):
        nemo_rl.observed({**NEMO, "prev_logprobs": torch.zeros(2, 4)}, 5)
    with pytest.raises(InputError, match="has no token_ids"):
        nemo_rl.observed({name: v for name, v in NEMO.items() if name != "token_ids"}, 5)


@UNTESTED
def test_prime_rls_loss_is_what_it_was_and_is_observed_by_the_batch(tmp_path: Path) -> None:
    def loss(inputs: Any, scale: float) -> float:
        return scale * float(inputs.trainer_logprobs.detach().sum())

    watched = monitor(tmp_path)
    around = prime_rl.observed(loss, watched, sequences=2)
    train = torch.tensor([-9.0, -1.5, -2.5], requires_grad=True)
    inputs = SimpleNamespace(
        loss_mask=torch.tensor([False, True, True]),
        inference_logprobs=torch.tensor([0.0, -1.0, -2.0]),
        trainer_logprobs=train,
    )
    for _ in range(6):
        assert around(inputs, scale=2.0) == -26.0
        watched.flush()
    watched.close()
    assert [(one["step"], one["decode_train/n"]) for one in lines(tmp_path)] == [
        (0, 4),
        (1, 4),
        (2, 4),
    ]
    assert [alarm.kind for alarm in watched.alarms] == ["above-limit"]


@UNTESTED
def test_prime_rls_loss_runs_where_it_cannot_be_observed(tmp_path: Path) -> None:
    watched = monitor(tmp_path)
    around = prime_rl.observed(lambda _inputs: 1.0, watched)
    with pytest.warns(UserWarning, match="observes nothing"):
        assert around(SimpleNamespace()) == 1.0
    watched.close()
