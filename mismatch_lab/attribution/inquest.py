"""All that is known of one run and its experiments: what the parts of the attribution share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Explanation
from mismatch_lab.attribution.investigate import Inquiry, investigate
from mismatch_lab.attribution.lab import Lab
from mismatch_lab.attribution.naming import cause_of_grid, not_ruled_out, ruled_out
from mismatch_lab.attribution.odd_causes import masked_ids
from mismatch_lab.attribution.simulate import World
from mismatch_lab.attribution.suspects import CAPTURED, Charge, raises_only, side_of
from mismatch_lab.attribution.trials import Trials
from mismatch_lab.attribution.value_grid import rounded_sound, value_grid
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.checkpoint import read_config
from mismatch_lab.engines.checkpoint_tensors import tensor_names
from mismatch_lab.findings.tensor_changes import changed_tensors
from mismatch_lab.schema import (
    Cause,
    DrawnFindings,
    Localisation,
    Manifest,
    Measures,
    NoiseFloor,
    OddTokens,
    ReferenceCheck,
    RuledOut,
    RunSpec,
)


@dataclass(frozen=True)
class Measured:
    """What is known before any experiment."""

    captures: Mapping[str, Capture]
    edges: Mapping[str, Measures]
    floor: NoiseFloor
    localisation: Localisation | None
    weights: Mapping[str, tuple[str, ...]]
    """suspect -> checkpoint tensors whose fingerprints are not the reference's."""
    decode_manifest: Manifest | None = None
    reference: ReferenceCheck | None = None
    """Whether what sides are held against can be believed."""
    drawn: DrawnFindings | None = None
    odd: tuple[OddTokens, ...] = ()
    """Sampled tokens without a log-prob; NaN in `captures`."""


@dataclass
class Outcome:
    """What was found so far."""

    causes: list[Cause] = field(default_factory=list)
    ruled_out: list[RuledOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, causes: list[Cause], inquiry: Inquiry) -> None:
        """Causes of one suspect, and what its inquiry ruled out."""
        self.causes += causes
        named = {cause.id for cause in self.causes}
        self.ruled_out += ruled_out(inquiry, named)
        left = not_ruled_out(inquiry, named)
        if left is not None:
            self.notes.append(left)
        if not inquiry.pursuit.finished:
            self.notes.append("The budget for experiments ended the search early.")

    def strike_ruled_out(self, asked: Collection[str]) -> None:
        """Nothing is ruled out that is named, by whatever suspect, or that was asked for."""
        open_ones = {cause.id for cause in self.causes} | set(asked)
        self.ruled_out = [one for one in self.ruled_out if one.id not in open_ones]


class Inquest:
    """One run under investigation."""

    def __init__(self, run: RunSpec, found: Measured, lab: Lab, trials: Trials) -> None:
        self.run = run
        self.found = found
        self.lab = lab
        self.trials = trials
        self.outcome = Outcome()
        self.temperature = run.probe.sampling.temperature
        self.config = read_config(run.infer.model)
        self.tensors = tensor_names(run.infer.model)
        before = run.infer.weights_before
        self.changes = {} if before is None else changed_tensors(before, run.infer.model)

    def search(
        self, charge: Charge, given: Explanation = (), own: Capture | None = None
    ) -> Inquiry:
        """Look for what explains a suspect.

        Args:
            charge: the suspect.
            given: defects that are known already.
            own: the suspect's own sound capture, where it is not held against the reference.
        """
        rows = self.found.captures["decode"].rows
        grid = value_grid(charge.observed, rows)
        if grid is not None:
            given = (*given, grid.hypothesis)
            rounded = rounded_sound(charge, grid, rows)
            coarse = cause_of_grid(charge, grid, rounded.error_nats)
            if (coarse.id, coarse.side) not in {(c.id, c.side) for c in self.outcome.causes}:
                self.outcome.causes.append(coarse)  # once, however often the side is searched
            charge = rounded
        world = World(self.lab, own, self.temperature)
        return investigate(charge, self._clues(charge), rows, world, given)

    def repaired(self, charge: Charge, capture: Capture, left_nats: float) -> Charge:
        """The charge against the suspect with a repair."""
        observed = capture.logp.astype(np.float64)
        return replace(charge, observed=observed, error_nats=left_nats)

    def _clues(self, charge: Charge) -> Clues:
        packs = bool(self.run.train.args.get("packing", False))
        return Clues(
            charge.suspect,
            self.config,
            self.run.probe.sampling,
            weights_before=self.run.infer.weights_before,
            changed=tuple(self.changes),
            low_rank=tuple(n for n, c in self.changes.items() if c.rank is not None),
            dtype=side_of(self.run, charge.suspect).dtype,
            tensors=self.tensors,
            first_wrong=_first_layer(self.found.localisation, charge.suspect),
            micro_batch=2 if packs else 1,
            raises_only=raises_only(charge),
            impossible=any(
                odd.kind == "impossible" and odd.capture == CAPTURED[charge.suspect]
                for odd in self.found.odd
            ),
            masked=masked_ids(self.found.captures[CAPTURED[charge.suspect]]),
        )


def _first_layer(localisation: Localisation | None, suspect: str) -> int | None:
    """The first layer that leaves its floor on the suspect's side, if it is known."""
    side = "train" if suspect == "train" else "infer"
    if localisation is None or localisation.side != side or suspect == "decode":
        return None
    found = re.match(r"model\.layers\.(\d+)", localisation.first_divergent_module or "")
    return int(found.group(1)) if found else None
