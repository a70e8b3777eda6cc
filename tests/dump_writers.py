"""Writes one record as each framework would dump it.

Imitations of published writers, field by field, since none of these frameworks installs beside our
environment: NeMo-RL `nemo_rl/utils/logger.py: log_batched_dict_as_jsonl` with the keys that
`algorithms/grpo.py` logs; prime-rl `trainer/rl/token_export.py`; slime
`observability/train_data_utils.py`; Miles `utils/train_dump_utils.py`. SkyRL's own writer has made
`tests/unit/ingest/data/skyrl-*`; that of its imitation here is held against it in a test.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEP = 7
LONG_AGO = 1_700_000_000
PLAIN = ("--temperature", "1", "--top-p", "1", "--top-k", "0", "--min-p", "0")


@dataclass(frozen=True)
class Written:
    """One sequence: ids, which were sampled, and both sides' float32 log-probs, NaN elsewhere."""

    ids: list[int]
    sampled: list[bool]
    infer: Any
    train: Any

    @property
    def prompt(self) -> int:
        return self.sampled.index(True)

    def filled(self, side: str) -> Any:
        """As frameworks write it: 0.0 where nothing was sampled."""
        return np.where(self.sampled, getattr(self, side), 0).astype(np.float32)

    def answer(self, side: str) -> Any:
        return self.filled(side)[self.prompt :]


Rows = list[Written]


def old(path: Path) -> Path:
    """A file that was written long ago: no run is at it."""
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def nemo_rl(folder: Path, rows: Rows, step: int = STEP, **changed: Any) -> Path:
    """Every value a list of one; rows padded on the right; Python's own NaN."""
    width = max(len(row.ids) for row in rows)

    def padded(values: Any) -> list[list[Any]]:
        return [np.pad(values, (0, width - len(values))).tolist()]

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"train_data_step{step}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(rows):
            line = {
                "content": ["text"],
                "rewards": [1.0],
                "input_lengths": [len(row.ids)],
                "token_ids": padded(row.ids),
                "token_loss_mask": padded(np.array(row.sampled, np.float32)),
                "sample_loss_mask": [1.0],
                "advantages": padded(np.ones(len(row.ids), np.float32)),
                "generation_logprobs": padded(row.filled("infer")),
                "prev_logprobs": padded(row.filled("train")),
            }
            stream.write(json.dumps({**line, **changed, "idx": number}, default=str) + "\n")
    old(path)
    return folder


def prime_rl(folder: Path, rows: Rows, step: int = STEP, **changed: Any) -> Path:
    """Packed sequences, two a micro-step: the first token of each carries what belongs to the one
    before.
    """
    at = folder / "token_exports" / f"step_{step}"
    at.mkdir(parents=True)
    with (at / "rank_0.jsonl").open("w", encoding="utf-8") as stream:
        for number, row in enumerate(rows):
            train = [-11.5, *row.filled("train").tolist()[1:]]
            columns: dict[str, Any] = {
                "token_ids": row.ids,
                "position_ids": list(range(len(row.ids))),
                "loss_mask": [bool(one) for one in row.sampled],
                "inference_logprobs": [finite(v) for v in row.filled("infer").tolist()],
                "trainer_logprobs": [finite(v) for v in train],
                "is_masked": [None] * len(row.ids),
            }
            head = {"schema_version": 1, "step": step, "rank": 0}
            head |= {"micro_step": number // 2, "micro_sequence_idx": number % 2}
            line = {**head, "export_sequence_idx": number, "env_name": "math", **columns, **changed}
            stream.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
    (at / "STABLE").touch()
    return folder


def finite(value: float) -> float | None:
    """What is not is null."""
    return value if np.isfinite(value) else None


def slime(folder: Path, rows: Rows, step: int = STEP, **changed: Any) -> Path:
    """Format 2: a dictionary a sample, tensors of the response."""
    import torch

    samples = [
        {
            "data_parallel_rank": 0,
            "rollout_position": at,
            "sample_index": at,
            "tokens": torch.tensor(row.ids),
            "response_lengths": len(row.ids) - row.prompt,
            "total_lengths": len(row.ids),
            "loss_masks": torch.tensor(row.sampled[row.prompt :], dtype=torch.int),
            "rollout_log_probs": torch.tensor(row.answer("infer")),
            "log_probs": torch.tensor(row.answer("train")),
            **changed,
        }
        for at, row in enumerate(rows)
    ]
    held = {"format_version": 2, "rollout_id": step, "rank": 0, "samples": samples}
    return saved(folder, f"train_data/{step}.pt", held | {"dp_shards": [], "raw_reward": [1.0]})


def cut(values: Any, row: Written, rank: int, size: int, padded_to: int | None) -> Any:
    """`slice_log_prob_with_cp`: the logits of two of 2 `size` chunks, those that predict a token of
    the response; the logit at p predicts token p + 1.
    """
    total = len(row.ids)
    chunk = -(-(padded_to or total) // (2 * size))
    parts = []
    for number in (rank, 2 * size - rank - 1):
        logits = range(number * chunk, (number + 1) * chunk)
        parts += [at + 1 - row.prompt for at in logits if row.prompt - 1 <= at < total - 1]
    return values[parts]


def miles(
    folder: Path,
    rows: Rows,
    step: int = STEP,
    rank: int = 0,
    cp: tuple[int, int] = (0, 1),
    padded_to: int | None = None,
    **changed: Any,
) -> Path:
    """A file a rank, a list a column; of a context-parallel group (rank, size) its parts, in format
    bshd where rows are padded.
    """
    import torch

    def part(side: str) -> list[Any]:
        whole = [torch.tensor(row.answer(side)) for row in rows]
        if cp[1] == 1:
            return whole
        return [cut(one, row, *cp, padded_to) for one, row in zip(whole, rows, strict=True)]

    columns = {
        "tokens": [torch.tensor(row.ids) for row in rows],
        "response_lengths": [len(row.ids) - row.prompt for row in rows],
        "total_lengths": [len(row.ids) for row in rows],
        "loss_masks": [torch.tensor(row.sampled[row.prompt :]).int() for row in rows],
        "rollout_log_probs": part("infer"),
        "log_probs": part("train"),
        "sample_indices": list(range(len(rows))),
        "weight_versions": [["3"] for _ in rows],
        "raw_reward": [0.0] * (2 * len(rows)),
    }
    if padded_to is not None:
        columns["max_seq_lens"] = [padded_to] * len(rows)
    held = {"rollout_id": step, "rank": rank, "rollout_data": {**columns, **changed}}
    layout = {"cp_rank": cp[0], "cp_size": cp[1]}
    layout["qkv_format"] = "thd" if padded_to is None else "bshd"
    return saved(folder, f"train_data/{step}_{rank}.pt", held | layout)


def saved(folder: Path, name: str, held: Any) -> Path:
    """By torch.save."""
    import torch

    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, folder / name)
    old(folder / name)
    return folder


SKYRL = "skyrl.backends.skyrl_train.training_batch"


@contextmanager
def skyrl_module() -> Iterator[types.ModuleType]:
    """A module of SkyRL's name that pickles as its batch does, while a test writes with it."""
    module = types.ModuleType(SKYRL)

    def rebuild(kind: Any, state: Any) -> Any:
        raise AssertionError("a dump is never rebuilt by what it names")

    class TrainingInputBatch(dict[str, Any]):
        metadata: Any = None

        def __reduce__(self) -> Any:
            state = {"batch_dict": dict(self), "batch_size": self.metadata.pop("size")}
            return rebuild, (type(self), {**state, "device": None, "metadata": self.metadata})

    rebuild.__module__ = TrainingInputBatch.__module__ = SKYRL
    rebuild.__qualname__ = rebuild.__name__ = "_rebuild_tensor_batch"
    TrainingInputBatch.__qualname__ = "TrainingInputBatch"
    module._rebuild_tensor_batch = rebuild  # type: ignore[attr-defined]
    module.TrainingInputBatch = TrainingInputBatch  # type: ignore[attr-defined]
    parts = SKYRL.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    sys.modules |= {name: types.ModuleType(name) for name in names[:-1]} | {SKYRL: module}
    try:
        yield module
    finally:
        for name in names:
            del sys.modules[name]


def numpy_field(values: Any) -> dict[str, Any]:
    """A tensor as SkyRL serialises it."""
    kind = {"format": "numpy", "data": values.tobytes(), "shape": values.shape}
    return {**kind, "dtype": str(values.dtype)}


def skyrl(folder: Path, rows: Rows, step: int = STEP, **changed: Any) -> Path:
    """Everything padded on the left."""
    width = max(len(row.ids) for row in rows)
    answer = max(len(row.ids) - row.prompt for row in rows)

    def left(values: Any, size: int, dtype: Any) -> Any:
        return np.pad(np.asarray(values, dtype), (size - len(values), 0))

    def whole(of: Callable[[Written], Any], size: int, dtype: Any) -> dict[str, Any]:
        return numpy_field(np.stack([left(of(row), size, dtype) for row in rows]))

    answers = [np.array(row.sampled[row.prompt :]) for row in rows]
    masks = np.stack([left(one, answer, np.int64) for one in answers])
    ones = np.stack([left(np.ones(len(one)), answer, np.int64) for one in answers])
    batch = {
        "sequences": whole(lambda row: row.ids, width, np.int64),
        "attention_mask": whole(lambda row: [1] * len(row.ids), width, np.int64),
        "response_mask": numpy_field(ones),
        "loss_mask": numpy_field(masks),
        "rollout_logprobs": whole(lambda row: row.answer("infer"), answer, np.float32),
        "action_log_probs": whole(lambda row: row.answer("train"), answer, np.float32),
        "base_action_log_probs": None,
        **changed,
    }
    at = folder / "dumped_data"
    at.mkdir(parents=True, exist_ok=True)
    path = at / f"global_step_{step}_training_input.pkl"
    with skyrl_module() as module, path.open("wb") as stream:
        held = module.TrainingInputBatch(batch)
        held.metadata = {"size": len(rows), "pad_size": 0, "metrics": {}}
        pickle.dump(held, stream)
    old(path)
    return folder


def lines(rows: Rows) -> Iterator[dict[str, Any]]:
    """A line a token; a log-prob that there is none of is empty."""
    for number, row in enumerate(rows):
        for at, token in enumerate(row.ids):
            logp = {
                f"logp_{side}": float(getattr(row, side)[at]) if row.sampled[at] else None
                for side in ("infer", "train")
            }
            sampled = int(row.sampled[at])
            yield {"row": number, "token_id": token, "sampled": sampled, **logp}


def csv_(folder: Path, rows: Rows, **more: Any) -> Path:
    """As csv.DictWriter writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dump.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        held = [{**line, **more} for line in lines(rows)]
        writer = csv.DictWriter(stream, list(held[0]))
        writer.writeheader()
        writer.writerows(held)
    return path


def parquet(folder: Path, rows: Rows, **more: Any) -> Path:
    """A line a row."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    held = {
        "token_ids": [row.ids for row in rows],
        "mask": [[bool(one) for one in row.sampled] for row in rows],
        "logp_infer": [row.filled("infer").tolist() for row in rows],
        "logp_train": [row.filled("train").tolist() for row in rows],
        **{name: [value] * len(rows) for name, value in more.items()},
    }
    path = folder / "dump.parquet"
    pyarrow.parquet.write_table(pyarrow.table(held), path)
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "nemo-rl": nemo_rl,
    "prime-rl": prime_rl,
    "slime": slime,
    "miles": miles,
    "skyrl": skyrl,
    "csv": csv_,
    "parquet": parquet,
}
"""By the format's name."""
