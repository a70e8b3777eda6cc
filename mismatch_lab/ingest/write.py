"""Rows of a step as two captures, `decode` and `train`: all of them, or a sample that is even."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.arrays import manifest_of
from mismatch_lab.captures.capture import Capture, Int64, Rows
from mismatch_lab.captures.packing import UNKNOWN_PACK
from mismatch_lab.captures.store import save_capture
from mismatch_lab.engines.base import RECORDED, WEIGHT_VERSIONS
from mismatch_lab.errors import InputError
from mismatch_lab.ingest.rows import Chosen
from mismatch_lab.ingest.sampling import Known
from mismatch_lab.schema import OptionValue, SideSpec

MOST_TOKENS = 2**24
"""Of one step's record: 16.8 million tokens are 220 MB as a capture, and twice that while it is
written. A step that has more is sampled."""

NO_VERSION = "-"
"""In place of a row's versions, where it has none."""


@dataclass
class StepRows:
    """Rows of one step, until they are written."""

    step: int | None
    sample: int | None
    """Rows that are kept at most, each with the same chance; None is all."""
    seed: int
    rows: list[tuple[int, Chosen]] = field(default_factory=list)
    """With the place that they came in."""
    seen: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        # A step's sample does not depend on which others are ingested with it.
        self._rng = np.random.default_rng([self.seed, self.step or 0])

    def add(self, row: Chosen) -> None:
        """Keep a row, or let it take another's place (Vitter's algorithm R).

        Raises:
            InputError: more than `MOST_TOKENS` tokens.
        """
        self.seen += 1
        if self.sample is None or len(self.rows) < self.sample:
            self.rows.append((self.seen, row))
        else:
            at = int(self._rng.integers(self.seen))
            if at >= self.sample:
                return
            self.tokens -= len(self.rows[at][1].token_ids)
            self.rows[at] = (self.seen, row)
        self.tokens += len(row.token_ids)
        if self.tokens > MOST_TOKENS:
            raise InputError(
                f"{self.named} has more than {MOST_TOKENS} tokens: too many for one record.",
                "Add --sample N, rows that are drawn evenly.",
            )

    @property
    def named(self) -> str:
        """For people."""
        return "The dump" if self.step is None else f"Step {self.step}"

    def write(self, folder: Path, known: Known, options: dict[str, OptionValue]) -> None:
        """Write both captures into a folder.

        Args:
            folder: of the step; must not exist.
            known: of the sampling.
            options: what else is known, for the manifests.
        """
        self.rows.sort(key=lambda one: one[0])
        rows = [row for _, row in self.rows]
        both = _captures(rows)
        said = {**options, **known.options, **_versions(rows)}
        if self.step is not None:
            said["step"] = self.step
        for name, capture in both.items():
            side = SideSpec(
                side="infer" if name == "decode" else "train",
                engine=RECORDED,
                model="",
                dtype="",
            )
            manifest = manifest_of(name, side, capture, known.sampling, known.space, said)
            save_capture(folder / name, capture, manifest)


def _captures(rows: list[Chosen]) -> dict[str, Capture]:
    offsets = np.cumsum([0, *(len(row.token_ids) for row in rows)]).astype(np.int64)
    held = Rows(
        np.concatenate([row.token_ids for row in rows]),
        offsets,
        np.array([int(row.sampled.argmax()) for row in rows], np.int32),
        np.concatenate([row.sampled for row in rows]),
    )
    return {
        "decode": Capture(
            held,
            np.concatenate([row.logp_infer for row in rows]),
            router_topk=_experts(rows),
        ),
        "train": Capture(
            held, np.concatenate([row.logp_train for row in rows]), packs=_packs(rows)
        ),
    }


def _experts(rows: list[Chosen]) -> NDArray[np.int16] | None:
    """[T, L, K]; None where the dump has none.

    Raises:
        InputError: rows with other numbers of layers, or of experts.
    """
    shapes = {row.experts.shape[1:] for row in rows if row.experts is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise InputError(
            f"Rows have choices of {' and '.join(str(list(s)) for s in sorted(shapes))} experts: "
            "they are not of one model."
        )
    (shape,) = shapes
    return np.concatenate(
        [
            np.full((len(row.token_ids), *shape), -1, np.int16)
            if row.experts is None
            else row.experts
            for row in rows
        ]
    )


def _packs(rows: list[Chosen]) -> Int64 | None:
    """[R, 2] of packed rows, numbered as they come; None where the dump says it of none."""
    if all(row.pack is None for row in rows):
        return None
    unknown = (None, UNKNOWN_PACK)
    said = [unknown if row.pack is None else row.pack for row in rows]
    numbers = {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in said if name))}
    return np.array(
        [(UNKNOWN_PACK if name is None else numbers[name], place) for name, place in said], np.int64
    )


def _versions(rows: list[Chosen]) -> dict[str, OptionValue]:
    """Of the engine's weights: one number as `live.Recorder` keeps it where all rows have the same,
    else a word a row, with a comma between those of one row.
    """
    words = [",".join(dict.fromkeys(row.versions)) or NO_VERSION for row in rows]
    if set(words) == {NO_VERSION}:
        return {}
    if len(set(words)) == 1 and words[0].isdecimal():
        return {"weight_version_infer": int(words[0])}
    return {WEIGHT_VERSIONS: " ".join("_".join(word.split()) for word in words)}
