"""A user's scoring function as the trainer: what it is given, what it may return, the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.function import FunctionEngine, check_trainer
from mismatch_lab.errors import EngineError, InputError, NotApplicableError
from mismatch_lab.schema import OptionValue, SideSpec

VOCABULARY = 40

PROGRAM = """
import numpy as np

def scorer(change):
    '''log p(token | the one before it) of a table: a bigram model.'''
    table = np.random.default_rng(1).normal(0, 2, size=(40, 40))
    def score(ids, positions, documents, temperature):
        wide = table / temperature
        wide = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
        before = np.concatenate([[0], ids[:-1]])
        return change(wide[before, ids], ids, wide)
    return score

def load(model, dtype, scale=1.0):
    return scorer(lambda logp, ids, wide: logp * scale)
def shifted(model, dtype):
    return scorer(lambda logp, ids, wide: np.concatenate([logp[1:], [0.0]]))
def probabilities(model, dtype):
    return scorer(lambda logp, ids, wide: np.exp(logp))
def short(model, dtype):
    return scorer(lambda logp, ids, wide: logp[1:])
def blind(model, dtype):
    return scorer(lambda logp, ids, wide: np.concatenate([[0], wide[ids[:-1], 0]]))
def leaky(model, dtype):
    return scorer(lambda logp, ids, wide: np.cumsum(logp) / (1 + np.arange(len(ids))))
def nameless(model, dtype):
    return 3
def broken(model, dtype):
    raise RuntimeError("no such file")
def falling(model, dtype):
    return scorer(lambda logp, ids, wide: 1 / 0)
def unlike(model, dtype):
    return scorer(lambda logp, ids, wide: logp + np.random.default_rng().normal(-1, 1, len(ids)))
def warm(model, dtype):
    inner = load(model, dtype)
    return lambda ids, positions, documents, temperature: inner(ids, positions, documents, 1.0)
def packed(model, dtype):
    def score(ids, positions, documents, temperature):
        assert positions.tolist() == [0, 1, 2, 0, 1], positions
        assert documents.tolist() == [0, 0, 0, 1, 1], documents
        return np.array([9.0, -1.0, -2.0, 9.0, -3.0])
    return score
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(f'{{"vocab_size": {VOCABULARY}}}')
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    return path


def engine(program: Path, name: str, **args: OptionValue) -> FunctionEngine:
    spec = SideSpec(
        side="train", engine="function", model=str(program.parent), dtype="float32",
        args=args, program=f"{program}:{name}",
    )  # fmt: skip
    return FunctionEngine(spec)


def rows() -> Rows:
    return Rows.build([[5, 6, 7], [8, 9]], [1, 1], [[False, True, True], [False, True]])


def nothing(done: int, total: int) -> None:
    pass


def test_sequences_come_one_after_another_and_firsts_have_no_log_prob(program: Path) -> None:
    found = engine(program, "packed").score(rows(), ScoreRequest(), nothing)
    assert np.isnan(found.logp[[0, 3]]).all()  # whatever stood there, 9 too
    assert found.logp[[1, 2, 4]].tolist() == [-1.0, -2.0, -3.0]
    assert found.hidden == {}


def test_options_are_the_functions_own(program: Path) -> None:
    plain = engine(program, "load").score(rows(), ScoreRequest(), nothing)
    halved = engine(program, "load", scale=0.5, micro_batch=1)
    assert halved.options == {"scale": 0.5, "micro_batch": 1}
    found = halved.score(rows(), ScoreRequest(), nothing)
    np.testing.assert_allclose(found.logp, 0.5 * plain.logp, rtol=1e-6)
    with pytest.raises(InputError, match="unexpected keyword argument 'scael'"):
        engine(program, "load", scael=0.5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nameless", "returned a int"),
        ("broken", "RuntimeError: no such file"),
        ("absent", "no function 'absent'"),
    ],
)
def test_what_cannot_be_loaded_is_said(program: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        engine(program, name)


def test_it_is_run_as_it_is(program: Path) -> None:
    with pytest.raises(NotApplicableError, match="run as it is"):
        engine(program, "load").score(rows(), ScoreRequest(train_mode=True), nothing)
    with pytest.raises(InputError, match="cannot sample"):
        engine(program, "load").generate([], None, nothing)  # type: ignore[arg-type]


def test_a_function_that_keeps_the_contract_passes(program: Path) -> None:
    check_trainer(f"{program}:load", str(program.parent))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shifted", "is number t that of token t [+] 1"),
        ("probabilities", "no log-prob is above 0"),
        ("short", "for 13 tokens"),
        ("blind", "has the log-prob of the first one"),
        ("leaky", "sees the one before it"),
        ("falling", "ZeroDivisionError"),
        ("unlike", "scored twice differs|no log-prob is above 0"),
        ("warm", "at temperature 10000 not all tokens are alike"),
    ],
)
def test_what_breaks_the_contract_is_named(program: Path, name: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        check_trainer(f"{program}:{name}", str(program.parent))
