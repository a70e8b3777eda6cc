"""Files that want to run code, and files that are broken: refused, by name, and nothing is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dump_writers as w
import numpy as np
import pytest
import torch

from mismatch_lab.errors import InputError
from mismatch_lab.ingest import files
from mismatch_lab.ingest import rows as shapes
from mismatch_lab.ingest.run import IngestRequest, ingest

FLAGS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
PICKLE = "global_step_7_training_input.pkl"


def refused(name: str, path: Path, tmp_path: Path, *said: str) -> None:
    """Exit by InputError that says so much, with nothing written."""
    out = tmp_path / "out"
    with pytest.raises(InputError) as error:
        ingest(IngestRequest(name, path, out, FLAGS), lambda _event: None)
    for words in said:
        assert words in str(error.value)
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


class Calls:
    """An object that is unpickled by a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def hostile(mark: Path) -> dict[str, Any]:
    """By the name that the message must have; each would make a file `mark`."""
    touch = f"touch {mark}"
    return {
        "posix.system": Calls(os.system, touch),
        "builtins.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": {"batch_dict": [({}, Calls(exec, f"open({str(mark)!r}, 'w')"))]},
        "builtins.getattr": Calls(getattr, Path("/"), "exists"),
        "pathlib.PosixPath": mark,
        "torch.storage._load_from_bytes": torch.zeros(2).untyped_storage(),
        "dump_writers.Written": {"metadata": w.Written([1], [True], 0, 0)},
    }


@pytest.mark.parametrize("name", hostile(Path("x")))
def test_a_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / PICKLE
    path.write_bytes(pickle.dumps(hostile(mark)[name]))
    refused("skyrl", w.old(path), tmp_path, name, "not on the list", "nothing of it was run")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_it_runs_nothing_in_any_protocol(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / PICKLE
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {mark}"), protocol))
    refused("skyrl", w.old(path), tmp_path, "posix.system")
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        # A name of the list, then its state: __call__ and the like would be set on it.
        b"cnumpy\ndtype\n(dS'x'\nS'y'\nsb.",
        b"(i__main__\nX\n.",  # INST
        b"\x82\x01.",  # EXT1: a number in place of a name
        b"Pid\n.",  # PERSID
        b"cnumpy\ndtype\n)\x81.",  # NEWOBJ of a name that is no class
        b"cskyrl.backends.skyrl_train.training_batch\nTensorFormat\n)R.",  # too few arguments
    ],
)
def test_opcodes_that_reach_for_objects(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / PICKLE
    path.write_bytes(program)
    refused("skyrl", w.old(path), tmp_path, PICKLE)


@pytest.mark.parametrize(
    "program",
    [
        b"\x8e" + struct.pack("<Q", 10**18) + b"abc",  # BINBYTES8
        b"B" + struct.pack("<I", 10**9) + b"abc",  # BINBYTES
        b"\x8d" + struct.pack("<Q", 10**9) + b"abc",  # BINUNICODE8
        b"\x80\x04\x95" + struct.pack("<Q", 10**9) + b"N.",  # FRAME
        b"\x8b" + struct.pack("<i", 10**9) + b"\x01",  # LONG4
        b"Nr" + struct.pack("<I", 2**32 - 1) + b".",  # LONG_BINPUT: the memo's size
    ],
)
def test_lengths_of_a_pickle_take_no_memory(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / PICKLE
    path.write_bytes(program)
    refused("skyrl", w.old(path), tmp_path, PICKLE)


def test_a_cut_pickle(rows: w.Rows, tmp_path: Path) -> None:
    path = w.skyrl(tmp_path / "dump", rows) / "dumped_data" / PICKLE
    whole = path.read_bytes()
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused("skyrl", w.old(path), tmp_path, "no whole pickle")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shape": (10**9, 10**9)}, "holds"),
        ({"shape": (-1, 2)}, "holds"),
        ({"shape": [2, 3]}, "format 'numpy'"),
        ({"dtype": "object"}, "dtype 'object'"),
        ({"dtype": "O8"}, "dtype 'O8'"),
        ({"data": "text"}, "has no data"),
        ({"format": "tensor_list"}, "format 'tensor_list'"),
        ({"format": "torch", "data": b"PK"}, "no file of torch.save"),
    ],
)
def test_a_tensor_of_skyrl_that_is_none(
    changed: dict[str, Any], said: str, rows: w.Rows, tmp_path: Path
) -> None:
    field = w.numpy_field(np.zeros((2, 6), np.int64)) | changed
    refused("skyrl", w.skyrl(tmp_path / "dump", rows, sequences=field), tmp_path, "sequences", said)


def test_tensors_of_skyrl_that_do_not_fit(rows: w.Rows, tmp_path: Path) -> None:
    field = w.numpy_field(np.zeros((2, 7), np.int64))
    refused("skyrl", w.skyrl(tmp_path / "dump", rows, loss_mask=field), tmp_path, "do not fit")


@pytest.mark.parametrize("name", ["slime", "miles"])
def test_a_torch_file_runs_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    held = {"samples": [{"tokens": Calls(os.system, f"touch {mark}")}], "rollout_id": 7}
    dump = w.saved(tmp_path / "dump", "train_data/7.pt", held)
    refused(name, dump, tmp_path, "more than tensors and plain data", "system")
    assert not mark.exists()


def test_a_tensor_of_skyrl_in_torchs_format_runs_nothing(rows: w.Rows, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stream = io.BytesIO()
    torch.save(Calls(os.system, f"touch {mark}"), stream)
    field = {"format": "torch", "data": stream.getvalue()}
    refused("skyrl", w.skyrl(tmp_path / "dump", rows, loss_mask=field), tmp_path, "plain data")
    assert not mark.exists()


def test_a_rollouts_objects_do_not_run_for_their_versions(rows: w.Rows, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    dump = w.slime(tmp_path / "dump", rows)
    w.saved(dump, "rollout_data/7.pt", {"samples": [Calls(os.system, f"touch {mark}")]})
    report = ingest(IngestRequest("slime", dump, tmp_path / "out", FLAGS), lambda _event: None)
    assert [n for text, n in report.counts.items() if "weight versions" in text] == [1]
    assert not mark.exists()


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "7.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 2**20)
    refused("slime", w.old(path), tmp_path, "compressed")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_torch_file(share: float, rows: w.Rows, tmp_path: Path) -> None:
    path = w.slime(tmp_path / "dump", rows) / "train_data/7.pt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused("slime", w.old(path), tmp_path, "no file of torch.save")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"log_probs": torch.zeros(3)}, "log_probs has 3 values for a response of 2"),
        ({"response_lengths": 10**9}, "a response of 1000000000 in 3 tokens"),
        ({"tokens": torch.tensor([1, 2, 2**40])}, "1099511627776 is no token id"),
        ({"tokens": torch.tensor([1]).expand(2**40)}, "1099511627776 values"),
        ({"tokens": "text"}, "tokens is no list of numbers"),
        ({"tokens": torch.rand(3)}, "token ids are no list of integers"),
        ({"response_lengths": "2"}, "response_lengths is no list of numbers"),
        ({"response_lengths": torch.tensor([])}, "a response of tensor([]) in 3 tokens"),
        ({"loss_masks": None}, "has no loss_masks"),
    ],
)
def test_a_broken_sample_of_slime(
    changed: dict[str, Any], said: str, rows: w.Rows, tmp_path: Path
) -> None:
    dump = w.slime(tmp_path / "dump", rows[1:], **changed)
    refused("slime", dump, tmp_path, "7.pt, sample 0", said)


@pytest.mark.parametrize(
    "columns", [{"tokens": 3}, {"tokens": [torch.tensor([1])]}, {"log_probs": torch.zeros(())}]
)
def test_broken_columns_of_miles(columns: dict[str, Any], rows: w.Rows, tmp_path: Path) -> None:
    refused("miles", w.miles(tmp_path / "dump", rows, **columns), tmp_path, "7_0.pt", "columns")


def test_the_rollouts_file_is_told_from_the_trainers(tmp_path: Path) -> None:
    samples = [{"tokens": [1, 2], "response_length": 1, "rollout_log_probs": [-1.0]}]
    w.saved(tmp_path, "rollout_data/7.pt", {"samples": samples})
    path = tmp_path / "rollout_data/7.pt"
    refused("slime", path, tmp_path, "engine's side alone", "train_data/ of --dump-details")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prev_logprobs": [[-1.0]]}, "prev_logprobs has 1 values for 3 tokens"),
        ({"input_lengths": [10**9]}, "input_lengths is 1000000000"),
        ({"input_lengths": [0]}, "input_lengths is 0"),
        ({"input_lengths": [10**30]}, "input_lengths is 1000000000000"),
        ({"token_ids": [[1, 2, 10**10]]}, "10000000000 is no token id"),
        ({"token_ids": [[1, -2, 3]]}, "-2 is no token id"),
        ({"token_ids": [["a", "b", "c"]]}, "Expected `int`"),
        ({"token_ids": [[1, 2, 3], [1, 2, 3]]}, "holds 2 samples"),
        ({"token_ids": None}, "has no token_ids"),
        ({"generation_logprobs": [[0, "nan", 1]]}, "Expected `float | null`"),
    ],
)
def test_a_broken_line_of_nemo_rl(
    changed: dict[str, Any], said: str, rows: w.Rows, tmp_path: Path
) -> None:
    dump = w.nemo_rl(tmp_path / "dump", rows[1:], **changed)
    refused("nemo-rl", dump, tmp_path, "train_data_step7.jsonl:1", said)


def test_a_cut_line_is_named(rows: w.Rows, tmp_path: Path) -> None:
    path = w.nemo_rl(tmp_path / "dump", rows) / "train_data_step7.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    refused("nemo-rl", w.old(path), tmp_path, "jsonl:2", "cut off?")


def test_deep_and_long_lines(rows: w.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train_data_step1.jsonl"
    path.write_text("[" * 200_000 + "\n")
    refused("nemo-rl", w.old(path), tmp_path, "jsonl:1")
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 2**20)
    path.write_text("x" * (2**20 + 1))
    refused("nemo-rl", w.old(path), tmp_path, "more than 1 MiB")


def test_a_row_of_too_many_tokens(
    rows: w.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "MOST_ROW_TOKENS", 5)
    refused("prime-rl", w.prime_rl(tmp_path / "dump", rows), tmp_path, "6 tokens in a row")


def test_another_schema_of_prime_rl(rows: w.Rows, tmp_path: Path) -> None:
    dump = w.prime_rl(tmp_path / "dump", rows, schema_version=2)
    refused("prime-rl", dump, tmp_path, "rank_0.jsonl:1", "schema_version 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row,token_id,sampled,logp_infer\n0,1,0,\n", "no column logp_train"),
        ("row,token_id,sampled,logp_infer,logp_train\n", "holds no token"),
        ("row,token_id,sampled,logp_infer,logp_train\n0,x,0,,\n", "no CSV"),
        ("row,token_id,sampled,logp_infer,logp_train\n1,1,0,,\n0,1,1,-1,-1\n", "do not ascend"),
        ("row,token_id,sampled,logp_infer,logp_train\n0,1,0,,\n0,,1,-1,-1\n", "is empty"),
        ("row,token_id,sampled,logp_infer,logp_train\n0,1,0\n", "no CSV"),
        ("\0\1\2", "no CSV"),
        ("", "no CSV"),
    ],
)
def test_a_broken_csv(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "dump.csv"
    path.write_text(text)
    refused("csv", path, tmp_path, "dump.csv", said)


def test_a_broken_parquet(rows: w.Rows, tmp_path: Path) -> None:
    path = w.parquet(tmp_path / "dump", rows)
    path.write_bytes(path.read_bytes()[:-9])
    refused("parquet", path, tmp_path, "no parquet")


def test_cells_of_other_lengths(rows: w.Rows, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "dump.parquet"
    held = {"token_ids": [[1, 2]], "mask": [[0, 1, 1]], "logp_infer": [[0.0, -1]]}
    pyarrow.parquet.write_table(pyarrow.table({**held, "logp_train": [[0.0, -1]]}), path)
    refused("parquet", path, tmp_path, "mask has 3 values for 2 tokens")


def test_json_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "train_data_step1.jsonl"
    path.write_text(json.dumps([1]) + "\n")
    refused("nemo-rl", w.old(path), tmp_path, "jsonl:1", "Expected `object`")
