"""SkyRL: `dumped_data/global_step_{N}_training_input.pkl`, a pickle of a TrainingInputBatch.

Everything is padded on the left: column S - 1 of `sequences` is the last token of every row, and
column R - 1 of the response's tensors is the same token. SkyRL repeats row 0 to fill up a batch;
`metadata` says how often.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import InputError
from mismatch_lab.ingest.files import Names, Source
from mismatch_lab.ingest.prime_rl import with_generated
from mismatch_lab.ingest.rows import DumpRow, Reading, build_row
from mismatch_lab.ingest.torch_dumps import load_plain
from mismatch_lab.ingest.unpickle import Call, ignored, load_restricted

NAMES = Names(r"global_step_(?P<step>\d+)_training_input\.pkl", "global_step_*_training_input.pkl")

SENTINEL = -9999.0
"""What vLLM's chat completions say where they have no log-prob; SkyRL keeps it."""

PADDED = "rows that SkyRL repeats to fill up its batch"
NO_LOGPROB = "sampled tokens that carry -9999 in the engine (it had no log-prob)"
SUPPORT = "rollout_sample_support"

DTYPES = ("int8", "int16", "int32", "int64", "uint8", "bool", "float16", "float32", "float64")
WHOLE, ANSWER = ("sequences", "attention_mask"), ("response_mask", "loss_mask")
LOGP = ("rollout_logprobs", "action_log_probs")

_BATCH = "skyrl.backends.skyrl_train.training_batch"
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


def _state(_cls: object, state: object) -> object:
    return state


def _first(value: object) -> object:
    return value


NAMED: Mapping[str, Call] = {
    f"{_BATCH}._rebuild_tensor_batch": _state,
    f"{_BATCH}.TrainingInputBatch": ignored,
    f"{_BATCH}.TensorFormat": _first,
    "torch.device": ignored,
    "numpy.ndarray": ignored,
    "numpy.dtype": ignored,
    "numpy._core.numeric._frombuffer": ignored,
    "numpy.core.numeric._frombuffer": ignored,
    **{f"{module}.{name}": ignored for module in _NUMPY for name in ("_reconstruct", "scalar")},
}
"""All that SkyRL 0.3 and 0.4 name in a dump, with numbers of numpy among its metrics. Arrays of
numpy are routed experts and the sampler's support, which are not read."""


def read(source: Source, reading: Reading) -> Iterator[DumpRow]:
    """Rows of a file.

    Raises:
        InputError: a pickle that names what SkyRL does not, or tensors that do not fit together.
    """
    held = load_restricted(source.path, NAMED)
    where = str(source.path)
    batch = held.get("batch_dict") if isinstance(held, dict) else None
    if not isinstance(batch, dict):
        raise InputError(f"{where} is no TrainingInputBatch of SkyRL.")
    if batch.get(SUPPORT) is not None:
        reading.how.hold_support(where, SUPPORT)
    tensors = {name: _tensor(where, name, batch) for name in (*WHOLE, *ANSWER, *LOGP)}
    _check_shapes(where, tensors)
    rows = len(tensors["sequences"])
    metadata = held.get("metadata")
    padded = metadata.get("pad_size", 0) if isinstance(metadata, dict) else 0
    if not isinstance(padded, int) or not 0 <= padded <= rows:
        raise InputError(f"{where}: pad_size is {padded!r} of {rows} rows.")
    reading.counts[PADDED] += padded
    for at in range(rows - padded):
        row = _row(f"{where}, row {at}", {n: t[at] for n, t in tensors.items()}, reading)
        if row is not None:
            yield row
        reading.on_bytes(source.size * (at + 1) // rows)


def _row(where: str, tensors: Mapping[str, NDArray[Any]], reading: Reading) -> DumpRow | None:
    kept = tensors["attention_mask"].astype(bool)
    if not kept.any():
        return None
    left = len(kept) - len(tensors["loss_mask"])

    def of_tokens(name: str) -> NDArray[Any]:
        """[L] of the response's [R], 0 in the prompt."""
        part = tensors[name]
        return np.asarray(np.concatenate([np.zeros(left, part.dtype), part])[kept])

    answer = of_tokens("response_mask") > 0
    loss = (of_tokens("loss_mask") > 0) & answer
    infer, train = (of_tokens(name).astype(np.float32) for name in LOGP)
    infer = np.where(answer, infer, np.float32(0))
    missing = infer == SENTINEL
    logp = dict(zip(LOGP, (infer, train), strict=True))
    row = with_generated(build_row(where, tensors["sequences"][kept], loss, loss, logp))
    reading.counts[NO_LOGPROB] += int((missing & row.generated).sum())
    row.logp_infer[missing] = np.nan
    return row


def _check_shapes(where: str, tensors: Mapping[str, NDArray[Any]]) -> None:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    whole, answer = shapes["sequences"], shapes["loss_mask"]
    good = len(whole) == len(answer) == 2 and whole[0] == answer[0] and answer[1] <= whole[1]
    good &= all(shapes[name] == whole for name in WHOLE)
    good &= all(shapes[name] == answer for name in (*ANSWER, *LOGP))
    if not good:
        raise InputError(f"{where}: tensors that do not fit together: {shapes}.")


def _tensor(where: str, name: str, batch: Mapping[Any, Any]) -> NDArray[Any]:
    field = batch.get(name)
    if field is None:
        said = {
            "action_log_probs": "its policy's forward pass was skipped",
            "rollout_logprobs": "set generator.sampling_params.logprobs",
        }
        raise InputError(f"{where} has no {name}: nothing is compared.", said.get(name, ""))
    refuse = partial(_refuse, f"{where}: {name}")
    if not isinstance(field, dict):
        raise refuse("is no tensor")
    kind, data = field.get("format", "numpy"), field.get("data")
    if not isinstance(data, bytes):
        raise refuse("has no data")
    if kind == "torch":
        tensor = load_plain(io.BytesIO(data), f"{where}: {name}")
        if not hasattr(tensor, "detach"):
            raise refuse("is no tensor")
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        return np.asarray(tensor.numpy())
    shape, dtype = field.get("shape"), field.get("dtype")
    if kind != "numpy" or dtype not in DTYPES or not isinstance(shape, tuple):
        raise refuse(f"is of format {kind!r}, dtype {dtype!r}")
    sizes = all(isinstance(one, int) and one >= 0 for one in shape)
    if not sizes or math.prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise refuse(f"says it is {shape} of {dtype}, and holds {len(data)} bytes")
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def _refuse(where: str, why: str) -> InputError:
    return InputError(f"{where} {why}.")
