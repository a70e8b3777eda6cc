from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mismatch_lab.mini import train as training  # noqa: E402
from mismatch_lab.mini.evaluate import complete, load  # noqa: E402
from mismatch_lab.mini.problems import generate  # noqa: E402


def test_learning_rate_rises_then_falls_to_a_small_share() -> None:
    peak = training.PEAK_LR
    assert training.learning_rate(0.0) == 0.0
    assert training.learning_rate(training.WARMUP / 2) == pytest.approx(peak / 2)
    assert training.learning_rate(training.WARMUP) == pytest.approx(peak)
    # Half way down the cosine: the mean of 1 and the final share, 0.02.
    assert training.learning_rate((1 + training.WARMUP) / 2) == pytest.approx(peak * 0.51)
    assert training.learning_rate(1.0) == pytest.approx(peak * 0.02)


def test_matrices_decay_and_sinks_and_biases_do_not() -> None:
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(2, 2))
    model.sinks = torch.nn.Parameter(torch.zeros(2))
    model.down_proj_bias = torch.nn.Parameter(torch.zeros(2, 2))
    decayed, rest = training.build_optimizer(model).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.weight)]
    assert {id(p) for p in rest["params"]} == {id(model.sinks), id(model.down_proj_bias)}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)


@pytest.mark.slow
def test_two_steps_make_a_checkpoint_that_loads_and_the_same_seed_the_same_one(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        training.train(folder, seed=1, steps=2)
    first, second = ((f / "model.safetensors").read_bytes() for f in folders)
    assert first == second
    model, tokenizer = load(folders[0])
    texts = complete(model, tokenizer, generate(2, seed=0), temperature=1.0)
    assert len(texts) == 2
