"""One tensor with whatever values bring the model nearest to what a program says.

A server shows neither its tensors nor its hidden states. If one of its tensors is not the
checkpoint's, though, values for this tensor can be found on some rows under which the model says
what the server says on the others; values found for another tensor fit the rows that they were
found on and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.probes import is_held_out
from mismatch_lab.captures.store import load_capture
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import tensors_set, text
from mismatch_lab.schema import Alteration

STEP_SHARE = 0.06
"""Adam's step at first, as a share of the tensor's standard deviation."""
LOGITS = 1 << 24
"""Logits of a micro-batch, at most: 64 MiB."""


@contextmanager
def fitted_weights(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """The tensor in `tensors` fitted to a capture (value: `TEMPERATURE:STEPS:FOLDER`, steps of
    Adam), on the rows that are not held out.

    Raises:
        NotApplicableError: the model has no such tensor, or too few rows are there.
    """
    temperature, steps, folder = text(alteration).split(":", 2)
    name = (alteration.tensors or ("",))[0]
    parameter = dict(model.named_parameters()).get(name)
    if parameter is None:
        raise NotApplicableError(f"The model has no tensor {name!r}.")
    capture, _ = load_capture(Path(folder), verify=False)
    batches = _batches(capture, float(temperature), parameter.device)
    if not batches:
        raise NotApplicableError("There are too few rows to fit a tensor on.")
    with tensors_set([(parameter, _fit(model, parameter, batches, int(steps)))]):
        yield


class _Batch:
    """Some rows, padded on the right, with what the program says of them."""

    def __init__(
        self, capture: Capture, rows: list[int], temperature: float, device: torch.device
    ) -> None:
        every = list(capture.rows.spans())
        spans = [every[row] for row in rows]
        size = (len(rows), max(stop - start for start, stop in spans))
        ids = np.zeros(size, np.int64)
        said = np.full(size, np.nan, np.float32)
        mask = np.zeros(size, np.int64)
        at, probes = [], []
        for i, (start, stop) in enumerate(spans):
            ids[i, : stop - start] = capture.rows.token_ids[start:stop]
            said[i, : stop - start] = capture.logp[start:stop]
            mask[i, : stop - start] = 1
            for probe in np.flatnonzero(
                (capture.probe_positions > start) & (capture.probe_positions < stop)
            ):
                probes.append(int(probe))
                at.append((i, int(capture.probe_positions[probe]) - start - 1))
        self.ids, self.mask, self.said = (
            torch.from_numpy(array).to(device) for array in (ids, mask, said)
        )
        self.at = torch.tensor(at, dtype=torch.long, device=device).reshape(-1, 2)
        whole = capture.probe_logp
        wide = np.zeros((0, 1), np.float32) if whole is None else whole[probes]
        self.whole = torch.from_numpy(wide).to(device)
        self.temperature = temperature

    def error(self, model: nn.Module) -> Tensor:
        """Squared nats: the mean over tokens, and that over whole distributions."""
        logits = model(input_ids=self.ids, attention_mask=self.mask, use_cache=False).logits
        logp = (logits.float() / self.temperature).log_softmax(-1)
        own = logp[:, :-1].gather(-1, self.ids[:, 1:, None])[..., 0]
        found = _mean_square(own, self.said[:, 1:])
        if not len(self.whole):
            return found
        return found + _mean_square(logp[self.at[:, 0], self.at[:, 1]], self.whole)


def _mean_square(found: Tensor, wanted: Tensor) -> Tensor:
    """Over finite entries; 0, without a gradient, where there are none."""
    there = wanted.isfinite()
    return (found - torch.where(there, wanted, found)).square().sum() / there.sum().clamp(min=1)


def _batches(capture: Capture, temperature: float, device: torch.device) -> list[_Batch]:
    rows = capture.rows
    seen = [row for row in range(rows.n_rows) if not is_held_out(row)]
    if len(seen) == rows.n_rows:
        return []
    if capture.probe_logp is None:
        width = int(rows.token_ids.max()) + 1
    else:
        width = capture.probe_logp.shape[1]
    each = max(1, LOGITS // (width * int(np.diff(rows.row_offsets).max())))
    return [
        _Batch(capture, seen[i : i + each], temperature, device) for i in range(0, len(seen), each)
    ]


def _fit(model: nn.Module, parameter: nn.Parameter, batches: list[_Batch], steps: int) -> Tensor:
    """The values after the last step; the model is as it was."""
    kept = parameter.data
    spread = kept.float().std() if kept.numel() > 1 else kept.float().abs().mean()
    if not spread > 0:  # a norm that nobody has trained yet
        spread = kept.float().abs().mean().clamp(min=1e-3)
    parameter.data = kept.clone()
    parameter.requires_grad_(True)
    adam = torch.optim.Adam([parameter], lr=STEP_SHARE * float(spread))
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    try:
        with torch.enable_grad():
            for _ in range(steps):
                adam.zero_grad()
                for batch in batches:
                    (batch.error(model) / len(batches)).backward()  # type: ignore[no-untyped-call]
                adam.step()
                slower.step()
        return parameter.data
    finally:
        parameter.requires_grad_(False)
        parameter.grad = None
        parameter.data = kept
