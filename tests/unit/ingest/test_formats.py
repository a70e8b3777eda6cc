"""One record, written as each framework does, comes back as it was; what each leaves out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dump_writers as w
import numpy as np
import pytest
import torch

from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import InputError
from mismatch_lab.ingest.context_parallel import spans
from mismatch_lab.ingest.formats import FORMATS
from mismatch_lab.ingest.report import Report
from mismatch_lab.ingest.run import IngestRequest, ingest
from mismatch_lab.ingest.skyrl import NAMED
from mismatch_lab.ingest.unpickle import load_restricted
from mismatch_lab.run.recorded import read_record

FLAGS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
OURS = ("nemo-rl", "prime-rl", "slime", "miles", "skyrl")
REAL = Path(__file__).with_name("data")


def ingested(name: str, path: Path, out: Path, **more: Any) -> Report:
    more = {"flags": FLAGS, **more}
    return ingest(IngestRequest(name, path, out, **more), lambda _event: None)


def held(out: Path, side: str = "decode") -> tuple[list[int], list[bool], list[float]]:
    """Ids, sampled marks and the log-probs of sampled tokens."""
    capture, _ = load_capture(out / side)
    sampled = capture.rows.sampled
    assert np.isnan(capture.logp[~sampled]).all()
    return capture.rows.token_ids.tolist(), sampled.tolist(), capture.logp[sampled].tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_the_record(name: str, rows: w.Rows, tmp_path: Path) -> None:
    report = ingested(name, w.WRITERS[name](tmp_path / "dump", rows), tmp_path / "out")
    marks = [False, False, True, True, False, True, False, True, True]
    ids = [5, 6, 7, 8, 9, 4, 5, 3, 2]
    assert held(tmp_path / "out") == (ids, marks, [-1, -2, -0.5, -3, -4])
    assert held(tmp_path / "out", "train")[2] == [-1.25, -2.5, -0.75, -3.5, -4.125]
    record = read_record((tmp_path / "out",))
    infer = record.captures["decode"].rows
    assert infer.row_offsets.tolist() == [0, 6, 9]
    assert infer.prompt_lengths.tolist() == [2, 1]
    manifest = record.manifests["decode"]
    assert manifest.sampling is not None
    assert (manifest.sampling.temperature, manifest.options["top_k"]) == (1.0, 0)
    assert manifest.options.get("step") == (w.STEP if name in OURS else None)
    assert (report.steps[0].rows, report.steps[0].tokens, report.steps[0].sampled) == (2, 9, 5)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_equal_on_both_sides_is_said_to_be_a_copy(
    name: str, rows: w.Rows, tmp_path: Path
) -> None:
    copied = [w.Written(row.ids, row.sampled, row.infer, row.infer) for row in rows]
    report = ingested(name, w.WRITERS[name](tmp_path / "dump", copied), tmp_path / "out")
    assert report.is_copy


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_log_prob_is_none_and_is_counted(name: str, rows: w.Rows, tmp_path: Path) -> None:
    rows[1].infer[1] = np.nan
    report = ingested(name, w.WRITERS[name](tmp_path / "dump", rows), tmp_path / "out")
    assert np.isnan(held(tmp_path / "out")[2][3])
    assert report.counts["sampled tokens without a log-prob of the engine"] == 1
    assert report.counts["sampled tokens with a log-prob on both sides"] == 4


@pytest.mark.parametrize("name", FORMATS)
def test_a_zero_at_a_sampled_token_stays(name: str, rows: w.Rows, tmp_path: Path) -> None:
    rows[1].infer[1] = 0.0
    report = ingested(name, w.WRITERS[name](tmp_path / "dump", rows), tmp_path / "out")
    assert held(tmp_path / "out")[2][3] == 0.0
    assert report.counts["sampled tokens at which the engine has exactly 0.0"] == 1


def packs(out: Path) -> list[list[int]] | None:
    """Packed row and place of each sequence, of the trainer."""
    held = {side: load_capture(out / side)[0].packs for side in ("decode", "train")}
    assert held["decode"] is None
    return None if held["train"] is None else held["train"].tolist()


def test_prime_rl_says_how_it_packed(rows: w.Rows, tmp_path: Path) -> None:
    """Two sequences a micro-step; a table may say it too, and no other format does."""
    three = [
        *rows,
        w.Written([5, 2, 3], *(getattr(rows[1], n) for n in ("sampled", "train", "infer"))),
    ]
    ingested("prime-rl", w.prime_rl(tmp_path / "dump", three), tmp_path / "out")
    assert packs(tmp_path / "out") == [[0, 0], [0, 1], [1, 0]]
    for name in ("csv", "parquet"):
        dump = w.WRITERS[name](tmp_path / name, rows, packed_rows=6)
        ingested(name, dump, tmp_path / f"from-{name}")
        assert packs(tmp_path / f"from-{name}") == [[0, 0], [0, 1]]
        ingested(name, w.WRITERS[name](tmp_path / f"{name}-2", rows), tmp_path / f"{name}-plain")
        assert packs(tmp_path / f"{name}-plain") is None
    ingested("slime", w.slime(tmp_path / "slime", rows), tmp_path / "from-slime")
    assert packs(tmp_path / "from-slime") is None


def test_nemo_rl_drops_padding_and_keeps_samples_that_the_loss_drops(
    rows: w.Rows, tmp_path: Path
) -> None:
    dump = w.nemo_rl(tmp_path / "dump", rows, sample_loss_mask=[0.0])
    ingested("nemo-rl", dump, tmp_path / "out")
    assert len(held(tmp_path / "out")[0]) == 9
    with pytest.raises(InputError, match="no row has a token to compare"):
        ingested("nemo-rl", dump, tmp_path / "loss", mask="loss")
    assert not (tmp_path / "loss").exists()


def test_nemo_rl_zeros_of_the_trainer_are_no_measurement(rows: w.Rows, tmp_path: Path) -> None:
    zero = np.zeros(6, np.float32)
    rows[0] = w.Written(rows[0].ids, rows[0].sampled, rows[0].infer, zero)
    report = ingested("nemo-rl", w.nemo_rl(tmp_path / "a", rows), tmp_path / "out")
    assert np.isnan(held(tmp_path / "out", "train")[2]).tolist() == [True] * 3 + [False] * 2
    assert [n for text, n in report.counts.items() if "force_on_policy_ratio" in text] == [1]
    rows[1] = w.Written(rows[1].ids, rows[1].sampled, rows[1].infer, zero[:3])
    with pytest.raises(InputError, match="no token has a log-prob on both sides"):
        ingested("nemo-rl", w.nemo_rl(tmp_path / "b", rows), tmp_path / "none")


def test_nemo_rl_infinities_are_kept(rows: w.Rows, tmp_path: Path) -> None:
    rows[0].train[2] = -np.inf  # top-k of the trainer
    ingested("nemo-rl", w.nemo_rl(tmp_path / "dump", rows), tmp_path / "out")
    assert held(tmp_path / "out", "train")[2] == [-np.inf, -2.5, -0.75, -3.5, -4.125]


def test_prime_rl_is_read_where_it_is_stable(rows: w.Rows, tmp_path: Path) -> None:
    dump = w.prime_rl(tmp_path / "dump", rows)
    (w.prime_rl(dump, rows, step=8) / "token_exports/step_8/STABLE").unlink()
    report = ingested("prime-rl", dump, tmp_path / "out")
    assert [step.step for step in report.steps] == [7]
    assert report.counts["files left out (still being written)"] == 1
    with pytest.raises(InputError, match="STABLE lies beside none"):
        ingested("prime-rl", dump / "token_exports/step_8", tmp_path / "none")


@pytest.mark.parametrize("name", ["prime-rl", "slime", "miles", "skyrl"])
def test_tokens_left_out_of_the_loss_are_generated_where_the_engine_has_a_log_prob(
    name: str, rows: w.Rows, tmp_path: Path
) -> None:
    masks: dict[str, Any] = {
        "prime-rl": {"loss_mask": [False, True, False]},
        "slime": {"loss_masks": torch.tensor([1, 0])},
        "miles": {"loss_masks": [torch.tensor([1, 0])]},
        "skyrl": {"loss_mask": w.numpy_field(np.array([[1, 0]]))},
    }
    dump = w.WRITERS[name](tmp_path / "dump", rows[1:], **masks[name])
    ingested(name, dump, tmp_path / "out")
    assert held(tmp_path / "out")[1] == [False, True, True]
    ingested(name, dump, tmp_path / "loss", mask="loss")
    assert held(tmp_path / "loss")[1] == [False, True, False]


@pytest.mark.parametrize("name", ["slime", "miles"])
def test_weight_versions_are_kept_row_by_row(name: str, rows: w.Rows, tmp_path: Path) -> None:
    if name == "miles":
        dump = w.miles(tmp_path / "dump", rows, weight_versions=[["3", "3", "4"], []])
    else:  # slime has them in the rollout's file, at the positions of the train file
        samples = [{"weight_versions": ["3", "4"], "response_length": 4}, {"weight_versions": []}]
        dump = w.slime(tmp_path / "dump", rows)
        w.saved(dump, "rollout_data/7.pt", {"rollout_id": 7, "samples": samples})
    ingested(name, dump, tmp_path / "out")
    _, manifest = load_capture(tmp_path / "out" / "decode")
    assert manifest.options["weight_versions_infer"] == "3,4 -"


def test_one_weight_version_is_kept_as_the_recorder_does(rows: w.Rows, tmp_path: Path) -> None:
    ingested("miles", w.miles(tmp_path / "dump", rows), tmp_path / "out")
    _, manifest = load_capture(tmp_path / "out" / "decode")
    assert manifest.options["weight_version_infer"] == 3


def test_tensor_parallel_ranks_are_counted_once(rows: w.Rows, tmp_path: Path) -> None:
    dump = w.miles(tmp_path / "dump", rows)
    w.miles(dump, rows, rank=1)
    w.miles(dump, rows, rank=2, log_probs=None)  # not the last pipeline stage
    report = ingested("miles", dump, tmp_path / "out")
    assert report.steps[0].rows == 2
    assert report.counts["rows that another rank's file holds too"] == 2
    assert sum(n for text, n in report.counts.items() if text.startswith("files without")) == 1


def test_the_same_answer_twice_in_a_file_is_two_rows(rows: w.Rows, tmp_path: Path) -> None:
    report = ingested("slime", w.slime(tmp_path / "a", [rows[1], rows[1]]), tmp_path / "out")
    assert report.steps[0].rows == 2


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0"])
def test_what_skyrl_itself_wrote(version: str, tmp_path: Path) -> None:
    # Written by TrainingInputBatch.save of the published wheels: tokens 5 6 | 7 8 and an end 9 that
    # SkyRL appended; 5 | 4, which carries -9999, a tool's 3, and 2; row 0 once more, to fill up.
    # bfloat16 on the trainer's side; in 0.4.0 also packed experts, which are not read.
    path = tmp_path / "global_step_7_training_input.pkl"
    path.write_bytes((REAL / f"skyrl-{version}" / path.name).read_bytes())
    w.old(path)
    report = ingested("skyrl", path, tmp_path / "out")
    ids, marks, infer = held(tmp_path / "out")
    assert ids == [5, 6, 7, 8, 9, 5, 4, 3, 2]
    assert np.flatnonzero(marks).tolist() == [2, 3, 6, 8]
    assert infer[:2] + infer[3:] == [-1, -2, -4]
    assert np.isnan(infer[2])
    assert held(tmp_path / "out", "train")[2] == [-1.5, -2.5, -3.5, -4.5]
    assert report.counts["rows that SkyRL repeats to fill up its batch"] == 1
    assert [n for text, n in report.counts.items() if "-9999" in text] == [1]


def test_the_imitation_of_skyrl_writes_what_skyrl_writes(rows: w.Rows, tmp_path: Path) -> None:
    name = "global_step_7_training_input.pkl"
    real = load_restricted(REAL / "skyrl-0.3.0" / name, NAMED)
    ours = load_restricted(w.skyrl(tmp_path, rows) / "dumped_data" / name, NAMED)
    assert set(real) == set(ours)
    for field in ("sequences", "attention_mask", "response_mask", "loss_mask", "rollout_logprobs"):
        a, b = (held["batch_dict"][field] for held in (real, ours))
        assert (set(a), a["format"], a["dtype"]) == (set(b), b["format"], b["dtype"])


@pytest.mark.parametrize(
    ("missing", "said"),
    [("action_log_probs", "forward pass was skipped"), ("rollout_logprobs", "sampling_params")],
)
def test_skyrl_without_a_side(missing: str, said: str, rows: w.Rows, tmp_path: Path) -> None:
    dump = w.skyrl(tmp_path / "dump", rows, **{missing: None})
    with pytest.raises(InputError) as refused:
        ingested("skyrl", dump, tmp_path / "out")
    assert said in str(refused.value)


def test_a_parquet_of_a_line_a_token(rows: w.Rows, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "tokens.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(w.lines(rows))), path)
    ingested("parquet", path, tmp_path / "out")
    assert held(tmp_path / "out")[2] == [-1, -2, -0.5, -3, -4]


def test_a_table_in_pieces_is_the_table(
    rows: w.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mismatch_lab.ingest.tables as tables

    monkeypatch.setattr(tables, "BLOCK_BYTES", 256)  # some 12 lines: rows go over the edges
    many = [rows[n % 2] for n in range(40)]
    ingested("csv", w.csv_(tmp_path, many), tmp_path / "out")
    capture, _ = load_capture(tmp_path / "out" / "decode")
    assert np.diff(capture.rows.row_offsets).tolist() == [6, 3] * 20


@pytest.mark.parametrize("writer", [w.csv_, w.parquet])
def test_a_table_may_say_how_it_was_sampled(
    writer: Callable[..., Path], rows: w.Rows, tmp_path: Path
) -> None:
    columns = {"temperature": 0.5, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0, "logprobs": "raw"}
    path = writer(tmp_path, rows, **columns)
    name = path.suffix[1:]
    ingested(name, path, tmp_path / "out", flags={})
    _, manifest = load_capture(tmp_path / "out" / "decode")
    assert manifest.sampling is not None
    assert (manifest.sampling.temperature, manifest.logprob_space) == (0.5, "raw")
    with pytest.raises(InputError, match=r"says temperature 0\.5, and --temperature is 1"):
        ingested(name, path, tmp_path / "other", flags={"temperature": 1.0})


def test_the_support_that_was_drawn_from_contradicts_all_of_the_vocabulary(
    rows: w.Rows, tmp_path: Path
) -> None:
    dump = w.slime(tmp_path / "dump", rows, rollout_top_p_token_ids=torch.tensor([1]))
    with pytest.raises(InputError, match="the engine truncated"):
        ingested("slime", dump, tmp_path / "out")
    flags = {**FLAGS, "top_p": 0.9, "logprobs": "processed"}
    ingested("slime", dump, tmp_path / "out", flags=flags)


def test_pickles_of_newer_protocols_are_the_same(rows: w.Rows, tmp_path: Path) -> None:
    path = w.skyrl(tmp_path / "dump", rows) / "dumped_data/global_step_7_training_input.pkl"
    held = load_restricted(path, NAMED)
    for protocol in range(3, 6):
        path.write_bytes(pickle.dumps(held, protocol))
        assert load_restricted(path, NAMED) == held


def test_the_layout_of_context_parallel_parts() -> None:
    """10 tokens, of which 7 are the response, of 2 ranks: chunks of 3 logits. Logits 2 to 8 predict
    tokens 3 to 9, the response's 0 to 6: rank 0 has logits 0-2 and 9-11, rank 1 logits 3-5 and 6-8.
    """
    assert spans(10, 7, 0, 2) == [(0, 1)]
    assert spans(10, 7, 1, 2) == [(1, 4), (4, 7)]
    # Padded to 16: chunks of 4; rank 0 has logits 0-3 and 12-15, rank 1 logits 4-7 and 8-11.
    assert spans(10, 7, 0, 2, 16) == [(0, 2)]
    assert spans(10, 7, 1, 2, 16) == [(2, 6), (6, 7)]


@pytest.mark.parametrize(("size", "padded_to"), [(2, None), (3, None), (2, 12)])
def test_miles_parts_of_sequences_are_put_together(
    size: int, padded_to: int | None, rows: w.Rows, tmp_path: Path
) -> None:
    """Every part twice, as two tensor-parallel ranks write it."""
    for copy in range(2):
        for rank in range(size):
            number = copy * size + rank
            w.miles(tmp_path / "dump", rows, rank=number, cp=(rank, size), padded_to=padded_to)
    report = ingested("miles", tmp_path / "dump", tmp_path / "out")
    assert held(tmp_path / "out")[2] == [-1, -2, -0.5, -3, -4]
    assert held(tmp_path / "out", "train")[2] == [-1.25, -2.5, -0.75, -3.5, -4.125]
    assert report.counts["rows that another rank's file holds too"] == size * len(rows)


def test_miles_a_part_that_is_missing_or_laid_out_otherwise(rows: w.Rows, tmp_path: Path) -> None:
    import torch

    w.miles(tmp_path / "half", rows, rank=0, cp=(0, 2))
    with pytest.raises(InputError, match="parts of ranks 1 of 2 of a sequence are missing"):
        ingested("miles", tmp_path / "half", tmp_path / "out")
    for rank in range(2):
        w.miles(tmp_path / "whole", rows, rank=rank, cp=(rank, 2),
                log_probs=[torch.zeros(4), torch.zeros(2)])  # fmt: skip
        w.miles(tmp_path / "unnamed", rows, rank=rank, cp=(rank, 2), sample_indices=None)
        w.miles(tmp_path / "other", rows if rank else rows[::-1], rank=rank, cp=(rank, 2))
    for name, says in (
        ("whole", "laid out otherwise"),
        ("unnamed", "has no sample_indices"),
        ("other", "other tokens than"),
    ):
        with pytest.raises(InputError, match=says):
            ingested("miles", tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_choices_of_experts_come_with_slime_and_miles(rows: w.Rows, tmp_path: Path) -> None:
    """[T - 1, layers, K]: the last token is no input. Without routing replay there are none."""
    import torch

    experts = [
        torch.arange(2 * (len(row.ids) - 1), dtype=torch.int32).reshape(-1, 1, 2) for row in rows
    ]
    w.miles(tmp_path / "miles", rows, rollout_routed_experts=experts)
    w.slime(tmp_path / "slime", rows)
    for at, sample in enumerate(samples := [{"weight_versions": ["3"]} for _ in rows]):
        sample["rollout_routed_experts"] = experts[at]  # type: ignore[assignment]
    w.saved(tmp_path / "slime", f"rollout_data/{w.STEP}.pt", {"samples": samples})
    for name in ("miles", "slime"):
        ingested(name, tmp_path / name, tmp_path / f"from-{name}")
        both = [load_capture(tmp_path / f"from-{name}" / side)[0] for side in ("decode", "train")]
        assert both[1].router_topk is None
        topk = both[0].router_topk
        assert topk is not None
        assert topk[:, 0, 0].tolist() == [0, 2, 4, 6, 8, -1, 0, 2, -1]
    w.miles(tmp_path / "plain", rows)
    ingested("miles", tmp_path / "plain", tmp_path / "from-plain")
    assert load_capture(tmp_path / "from-plain" / "decode")[0].router_topk is None
    w.miles(tmp_path / "wrong", rows, rollout_routed_experts=experts[::-1])
    with pytest.raises(InputError, match=r"of shape \[2, 1, 2\], for 6 tokens"):
        ingested("miles", tmp_path / "wrong", tmp_path / "from-wrong")
