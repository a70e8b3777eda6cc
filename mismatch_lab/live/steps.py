"""A step of training as arrays on the host, and as captures in a folder that is kept small."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.arrays import capture_from_arrays, manifest_of
from mismatch_lab.captures.packing import packs_from_arrays
from mismatch_lab.captures.store import save_capture
from mismatch_lab.errors import CaptureError
from mismatch_lab.live.background import on_host
from mismatch_lab.schema import LogprobSpace, OptionValue, Sampling, SideSpec

RECORDED = "recorded"
"""Program of a side that is not named."""

Versions = tuple[Any, Any]
"""Weights that sampled and that trained: each None, a number, or a number a row [R]."""


@dataclass(frozen=True)
class Step:
    """What both sides say of a step's tokens: arrays [R, L] of this process's own."""

    number: int
    mask: NDArray[np.bool_]
    """True where the engine sampled."""
    logp_infer: NDArray[Any]
    logp_train: NDArray[Any]
    token_ids: NDArray[Any] | None
    """None where they are not known: then there can be measures, and no capture."""
    attention_mask: NDArray[Any] | None = None
    versions: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None] = (None, None)
    """[R] each."""
    learning_rate: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    space: LogprobSpace = "processed"
    packs: NDArray[np.int64] | None = None
    """[R, 2] how the trainer packed; see `captures.packing`."""

    def rows(self, chosen: NDArray[np.int64]) -> Step:
        """Some of its sequences.

        Args:
            chosen: int [K], which.
        """

        def cut(array: NDArray[Any] | None) -> Any:
            return None if array is None else array[chosen]

        return replace(
            self,
            mask=cut(self.mask),
            logp_infer=cut(self.logp_infer),
            logp_train=cut(self.logp_train),
            token_ids=cut(self.token_ids),
            attention_mask=cut(self.attention_mask),
            versions=(cut(self.versions[0]), cut(self.versions[1])),
            packs=cut(self.packs),
        )

    def answered(self) -> Step:
        """Without sequences of which nothing counts."""
        some = np.flatnonzero(self.mask.any(axis=1))
        return self if len(some) == len(self.mask) else self.rows(some)

    @property
    def lags(self) -> NDArray[np.int64] | None:
        """Updates that the sampling weights of each row were behind, [R]; None where not known."""
        infer, train = self.versions
        return None if infer is None or train is None else train - infer

    def options(self) -> dict[str, OptionValue]:
        """What a manifest says of it: the step, and the oldest and newest weights of each side."""
        said: dict[str, OptionValue] = {"step": self.number}
        for side, held in zip(("infer", "train"), self.versions, strict=True):
            if held is not None and len(held):
                said[f"weight_version_{side}"] = int(held.min())
                if held.min() != held.max():
                    said[f"weight_version_{side}_newest"] = int(held.max())
        return said


@dataclass(frozen=True)
class Observed:
    """A step as a framework holds it: arrays or tensors [R, L] of any device, not yet copied.

    Fields are those of `MismatchMonitor.observe`.
    """

    step: int
    token_ids: Any
    mask: Any
    logp_infer: Any
    logp_train: Any
    attention_mask: Any = None
    versions: Versions = (None, None)
    learning_rate: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    logprobs: LogprobSpace = "processed"
    packed_rows: Any = None
    """[R]; see `Recorder.record`."""

    def copied(self) -> Step:
        """The step on the host.

        Raises:
            ValueError: shapes that do not fit together.
        """
        sampled = on_host(self.mask).astype(bool)
        names = ("logp_infer", "logp_train", "token_ids", "attention_mask")
        given = {name: getattr(self, name) for name in names}
        arrays = {name: None if one is None else on_host(one) for name, one in given.items()}
        shapes = {name: one.shape for name, one in arrays.items() if one is not None}
        if sampled.ndim != 2 or any(shape != sampled.shape for shape in shapes.values()):
            told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise ValueError(f"arrays are to be [R, L]: mask {list(sampled.shape)}, {told}")
        infer, train = (_by_row(one, len(sampled)) for one in self.versions)
        both: Any = arrays  # the log-probs among them are there: they have no default
        return Step(
            number=self.step,
            mask=sampled,
            versions=(infer, train),
            learning_rate=self.learning_rate,
            sampling=Sampling(temperature=self.temperature, top_p=self.top_p),
            space=self.logprobs,
            packs=_packs(self.packed_rows, len(sampled)),
            **both,
        )


def _packs(packed_rows: Any, n_rows: int) -> NDArray[np.int64] | None:
    """Before any sequence is left out: the places of the others stay what they are."""
    if packed_rows is None:
        return None
    return packs_from_arrays(on_host(packed_rows), None, n_rows)


def _by_row(versions: Any, n_rows: int) -> NDArray[np.int64] | None:
    if versions is None:
        return None
    return np.broadcast_to(on_host(versions).astype(np.int64), (n_rows,))


class StepFolder:
    """Writes steps as captures of both sides, whole or not at all, and removes the oldest."""

    def __init__(
        self, folder: Path, model: str, dtype: str, engine: str, trainer: str, keep_bytes: int
    ) -> None:
        self.folder, self.keep_bytes = folder, keep_bytes
        self.sides = {
            "decode": SideSpec(side="infer", engine=engine, model=model, dtype=dtype),
            "train": SideSpec(side="train", engine=trainer, model=model, dtype=dtype),
        }

    def write(self, name: str, step: Step, said: Mapping[str, OptionValue] | None = None) -> Path:
        """The step as `NAME/decode` and `NAME/train`.

        Args:
            name: of the folder within this one.
            step: with token ids.
            said: what else the manifests say.

        Raises:
            CaptureError: arrays that do not fit together.
        """
        began = time.perf_counter()
        step = step.answered()
        if step.token_ids is None or not len(step.mask):
            raise CaptureError(f"Step {step.number} has no token ids, or no sampled token.")
        target = self.folder / name
        unfinished = self.folder / f".{name}.partial"
        sides = {"decode": step.logp_infer, "train": step.logp_train}
        try:
            for side, logp in sides.items():
                spec = self.sides[side]
                model = spec.model.replace("{step}", str(step.number))
                capture = capture_from_arrays(step.token_ids, logp, step.mask, step.attention_mask)
                if side == "train":
                    capture = replace(capture, packs=step.packs)
                manifest = manifest_of(
                    side,
                    spec.model_copy(update={"model": model}),
                    capture,
                    step.sampling,
                    step.space,
                    step.options() | dict(said or {}),
                    _version_of(spec.engine),
                    time.perf_counter() - began,
                )
                save_capture(unfinished / side, capture, manifest)
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return target

    def make_room(self, pattern: str) -> None:
        """Remove the oldest of those named so beyond what may be kept; the newest always stays."""
        kept = sorted(self.folder.glob(pattern))
        sizes = [_bytes(one) for one in kept]
        while len(kept) > 1 and sum(sizes) > self.keep_bytes:
            shutil.rmtree(kept.pop(0))
            sizes.pop(0)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return RECORDED
