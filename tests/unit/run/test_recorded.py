"""What somebody recorded, up to the point where the reference is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mismatch_lab.captures.arrays import capture_from_arrays
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import save_capture
from mismatch_lab.cli import app
from mismatch_lab.engines.base import CACHED_TOKENS, WEIGHT_VERSIONS
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.errors import InputError
from mismatch_lab.findings.build import _notes
from mismatch_lab.findings.edges import completed, measure_edges
from mismatch_lab.run.recorded import (
    Record,
    build_recorded_run,
    check_out,
    drawn_rows,
    read_record,
)
from mismatch_lab.run.request import DiagnoseRequest
from mismatch_lab.schema import Manifest, Sampling

MODEL = "mini-gpt-oss"
IDS = np.array([[5, 6, 7, 8], [5, 9, 4, 4], [3, 3, 2, 6]])
MASK = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]])


def side(logp: float) -> Capture:
    return capture_from_arrays(IDS, np.full(IDS.shape, logp), MASK)


def manifest(name: str, **more: Any) -> Manifest:
    sampling = Sampling(temperature=0.7, max_tokens=2) if name != "train" else None
    side = "train" if name == "train" else "infer"
    return Manifest.model_validate(
        {
            **{"id": name, "side": side, "engine": "vllm", "engine_version": "1", "model": "m"},
            **{"dtype": "bfloat16", "sampling": sampling, "logprob_space": "processed"},
            **{"patched": [], "host": "h", "packages": {}, "rows": 3, "tokens": 12, "wall_s": 1.0},
            **{"arrays_sha256": "", **more},
        }
    )


def saved(folder: Path, *names: str) -> Path:
    for at, name in enumerate(names):
        save_capture(folder / name, side(-1.0 - at), manifest(name))
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("decode", "train"), {"decode", "train"}),
        (("infer", "train"), {"decode", "train"}),
        (("decode", "prefill", "train"), {"decode", "prefill", "train"}),
        (("decode", "train", "floor"), {"decode", "train"}),
    ],
)
def test_a_folder_of_captures(tmp_path: Path, names: tuple[str, ...], found: set[str]) -> None:
    record = read_record((saved(tmp_path, *names),))
    assert set(record.captures) == found
    assert record.manifests["decode"].sampling == Sampling(temperature=0.7, max_tokens=2)


def test_the_folder_of_a_run_and_two_captures_are_the_same(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "captures", "decode", "train")
    inside = tmp_path / "run" / "captures"
    one, two = read_record((tmp_path / "run",)), read_record((inside / "decode", inside / "train"))
    for name in ("decode", "train"):
        assert np.array_equal(one.captures[name].logp, two.captures[name].logp, equal_nan=True)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            ["step-00000003", "step-00000010"],
            "2 records, a step or a rank each: step-00000003, step-",
        ),
        (["step-00000003-rank-0", "step-00000003-rank-1"], "step-00000003-rank-1"),
        ([f"step-{n:08d}" for n in range(13)], "13 records.*step-00000011, …"),
    ],
)
def test_of_several_steps_one_is_to_be_named(tmp_path: Path, steps: list[str], said: str) -> None:
    for step in steps:
        saved(tmp_path / step, "decode", "train")
    with pytest.raises(InputError, match=said) as raised:
        read_record((tmp_path,))
    assert f"--captures {tmp_path / steps[0]}" in str(raised.value)
    assert read_record((tmp_path / steps[-1],)).tokens.rows.n_rows == 3
    (tmp_path / "empty" / "step-00000001").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no capture"):
        read_record((tmp_path / "empty",))


def test_one_side_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds decode, floor"):
        read_record((saved(tmp_path, "decode", "floor"),))
    with pytest.raises(InputError, match="does not exist"):
        read_record((tmp_path / "nothing",))


def test_rows_are_drawn_by_the_seed_and_stay_in_order() -> None:
    record = Record({"decode": side(-1.0), "train": side(-2.0)})
    drawn = drawn_rows(record, 2, seed=0)
    assert drawn.tokens.rows.n_rows == 2
    again = drawn_rows(record, 2, seed=0)
    assert np.array_equal(drawn.tokens.rows.token_ids, again.tokens.rows.token_ids)
    assert drawn.captures["train"].rows.n_rows == 2
    assert drawn_rows(record, 3, seed=0) is record


def test_a_dtype_that_a_capture_does_not_say_is_the_checkpoints(tmp_path: Path) -> None:
    for name in ("decode", "train"):
        save_capture(tmp_path / name, side(-1.0), manifest(name, dtype=""))
    record = read_record((tmp_path,))
    # What mini-gpt-oss's config.json says.
    assert build_recorded_run(DiagnoseRequest(model=MODEL), record).train.dtype == "bfloat16"
    asked = DiagnoseRequest(model=MODEL, dtype="float32")
    assert build_recorded_run(asked, record).infer.dtype == "float32"


def test_what_is_said_row_by_row_is_drawn_with_the_rows(tmp_path: Path) -> None:
    options = {CACHED_TOKENS: "7 8 9", WEIGHT_VERSIONS: "7 8,9 -", "kv_cache_dtype": "auto"}
    for name in ("decode", "train"):
        save_capture(tmp_path / name, side(-1.0), manifest(name, options=options))
    drawn = drawn_rows(read_record((tmp_path,)), 2, seed=0)
    first = [row for row, ids in enumerate(IDS) if ids[0] == drawn.tokens.rows.token_ids[0]]
    counts = str(drawn.manifests["decode"].options[CACHED_TOKENS]).split()
    assert len(counts) == 2
    assert counts[0] in [str(7 + row) for row in first]
    versions = str(drawn.manifests["decode"].options[WEIGHT_VERSIONS]).split()
    assert versions == [{"7": "7", "8": "8,9", "9": "-"}[count] for count in counts]
    assert drawn.manifests["decode"].options["kv_cache_dtype"] == "auto"


def test_a_record_is_not_written_over(tmp_path: Path) -> None:
    record = saved(tmp_path / "run" / "captures", "decode", "train").parent
    for out in (record, record / "captures" / "x", tmp_path):
        with pytest.raises(InputError, match="where the record lies"):
            check_out(out, (record,))
    check_out(tmp_path / "other", (record,))


def test_nothing_but_the_reference_is_run(tmp_path: Path) -> None:
    record = Record({"decode": side(-1.0), "train": side(-2.0)})
    run = build_recorded_run(DiagnoseRequest(MODEL, dtype="float32", temperature=0.5), record)
    assert [name for name, _ in plan_tasks(run, str(tmp_path))] == ["reference"]
    assert run.probe.sampling.temperature == 0.5
    assert [prompt.token_ids for prompt in run.prompts] == [[5, 6], [5], [3]]
    assert (run.infer.dtype, run.train.dtype, run.ref.dtype) == ("float32", "float32", "float32")


def test_what_was_recorded_is_not_typed_otherwise(tmp_path: Path) -> None:
    record = read_record((saved(tmp_path, "decode", "train"),))
    run = build_recorded_run(DiagnoseRequest(MODEL), record)
    assert run.probe.sampling.temperature == 0.7
    assert run.infer.dtype == "bfloat16"
    with pytest.raises(InputError, match=r"sampled at temperature 0\.7, not 1"):
        build_recorded_run(DiagnoseRequest(MODEL, temperature=1.0), record)


def test_tokens_that_the_checkpoint_does_not_have() -> None:
    ids = np.where(IDS == 9, 99_999, IDS)
    large = capture_from_arrays(ids, np.full(ids.shape, -1.0), MASK)
    with pytest.raises(InputError, match="holds token 99999"):
        build_recorded_run(DiagnoseRequest(MODEL), Record({"decode": large, "train": large}))


def test_a_capture_is_not_held_against_itself() -> None:
    """Where nothing was scored anew, the engine's re-scoring is what it sampled with."""
    decode, train, ref = side(-1.0), side(-1.5), side(-1.25)
    once = {"decode": decode, "prefill": decode, "train": train, "ref": ref}
    edges = measure_edges(once)
    assert set(edges) == {"decode_train", "infer_ref", "train_ref"}
    assert edges["decode_train"]["abs_delta_mean"].value == pytest.approx(0.5)
    twice = measure_edges({**once, "prefill": replace(decode)})
    assert twice["decode_prefill"]["abs_delta_mean"].value == 0.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--engine", "vllm"), "--engine says how a side is run"),
        (("--depth", "deep"), "--depth says how a side is run"),
        (("--max-tokens", "9"), "--max-tokens says"),
        (("--engine-arg", "a=1"), "--engine-arg says"),
        (("--dry-run",), "nothing but the reference is run"),
        ((), "the same log-probs to the last bit"),
    ],
)
def test_said_before_anything_is_run(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    path = tmp_path / "both.npz"
    logp = np.full(IDS.shape, -1.0)
    np.savez(path, token_ids=IDS, mask=MASK, logp_infer=logp, logp_train=logp)
    done = CliRunner().invoke(app, ["diagnose", MODEL, "--captures", str(path), *more])
    text = done.output if done.exception is None else str(done.exception)
    assert said in " ".join(text.split())


def test_a_sample_of_nothing_is_refused() -> None:
    done = CliRunner().invoke(app, ["diagnose", MODEL, "--sample", "3"])
    assert "--sample takes rows of a record" in str(done.exception)


def test_frames_of_a_capture_and_of_findings() -> None:
    pytest.importorskip("pandas")
    frame = side(-1.0).to_pandas()
    assert list(frame.columns) == ["row", "position", "token_id", "text", "sampled", "logp"]
    assert frame[frame.row == 1].position.tolist() == [0, 1, 2]
    assert frame.logp[frame.sampled].tolist() == [-1.0] * 7


def test_a_record_of_modules_says_whose_they_are(tmp_path: Path) -> None:
    """Of the trainer with inputs, of the engine's re-scoring without; further passes of the trainer
    over the first row stay with the rows that are drawn.
    """
    at, one = np.array([1, 2, 3]), np.ones((3, 2), np.float32)
    names = {"decode": {}, "prefill": {"model.norm": one}, "train": {"model.norm:in": one}}
    for name, hidden in names.items():
        capture = replace(side(-1.0), probe_positions=at if hidden else at[:0], hidden=hidden)
        save_capture(tmp_path / name, capture, manifest(name))
    first = capture_from_arrays(IDS[:1], np.full((1, 4), -1.0), MASK[:1])
    save_capture(tmp_path / "train_mode", first, manifest("train_mode", side="train"))
    record = read_record((tmp_path,))
    built = build_recorded_run(DiagnoseRequest(model=MODEL), record)
    assert (built.modules_from, built.inputs_from) == (("prefill", "train"), ("train",))
    held = [set(drawn_rows(record, 1, seed).captures) for seed in range(30)]
    assert {"decode", "prefill", "train", "train_mode"} in held
    assert {"decode", "prefill", "train"} in held


def test_a_record_is_not_advised_to_ask_for_modules() -> None:
    """`--weights-before` of a record is held against its log-probs: it has no modules."""
    record = Record({"decode": side(-1.0), "train": side(-2.0)})
    asked = DiagnoseRequest(MODEL, dtype="float32", temperature=0.7, weights_before=MODEL)
    run = build_recorded_run(asked, record)
    assert run.infer.weights_before is not None
    both = completed({"decode": side(-1.0), "train": side(-2.0), "ref": side(-1.0)})
    assert not any("--depth" in note for note in _notes(run, both, no_versions=True))
