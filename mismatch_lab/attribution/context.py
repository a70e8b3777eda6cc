"""All that the stages share of one run: what was asked, what was measured, and what may be run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mismatch_lab.attribution.hypotheses import Features
from mismatch_lab.attribution.odd_causes import masked_ids
from mismatch_lab.attribution.routers import router_choices
from mismatch_lab.attribution.simulate import Simulator
from mismatch_lab.attribution.suspects import CAPTURED, Suspect, raises_only, side_of
from mismatch_lab.attribution.trials import Trials
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.packing import shares_rows
from mismatch_lab.checkpoints.config import read_config
from mismatch_lab.checkpoints.tensors import tensor_names
from mismatch_lab.findings.edges import is_rescored
from mismatch_lab.findings.tensor_changes import Change, changed_tensors
from mismatch_lab.schema import (
    DrawnFindings,
    Localisation,
    Manifest,
    Measures,
    NoiseFloor,
    OddTokens,
    ReferenceCheck,
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


@dataclass(frozen=True)
class Context:
    """One run whose causes are looked for. Stages read it and change nothing in it."""

    run: RunSpec
    measured: Measured
    simulator: Simulator
    """Simulates defects in the reference; keeps what it computed."""
    trials: Trials
    """Runs the real sides with one thing changed; keeps what it ran."""
    config: dict[str, Any]
    """config.json of the language model."""
    tensors: tuple[str, ...] | None
    """Names of the checkpoint's tensors; None where they are not known."""
    changes: Mapping[str, Change]
    """Checkpoint tensor -> what the last update of the engine's weights did to it."""
    captures_dir: Path | None = None
    """Where `measured.captures` lie, for what reads them in the reference's process."""

    @classmethod
    def of(
        cls,
        run: RunSpec,
        measured: Measured,
        simulator: Simulator,
        trials: Trials,
        captures_dir: Path | None = None,
    ) -> Context:
        """The context of a run, with what its checkpoints say."""
        model, before = run.infer.model, run.infer.weights_before
        changes = {} if before is None else changed_tensors(before, model)
        config, tensors = read_config(model), tensor_names(model)
        return cls(run, measured, simulator, trials, config, tensors, changes, captures_dir)

    @property
    def temperature(self) -> float:
        """Of the run's sampling."""
        return self.run.probe.sampling.temperature


def features_of(context: Context, suspect: Suspect) -> Features:
    """What decides which hypotheses are worth a try for a suspect."""
    run, measured = context.run, context.measured
    captured = CAPTURED[suspect.name]
    layer, part = _first_wrong(where_simulated(measured, suspect.name), suspect.name)
    return Features(
        suspect.name,
        context.config,
        run.probe.sampling,
        weights_before=run.infer.weights_before,
        changed=tuple(context.changes),
        low_rank=tuple(n for n, c in context.changes.items() if c.rank is not None),
        dtype=side_of(run, suspect.name).dtype,
        tensors=context.tensors,
        first_wrong=layer,
        first_wrong_part=part,
        packed=shares_rows(measured.captures["train"].packs),
        raises_only=raises_only(suspect),
        impossible=any(o.kind == "impossible" and o.capture == captured for o in measured.odd),
        masked=masked_ids(measured.captures[captured]),
        rescored=is_rescored(measured.captures),
        replays_graphs=_replays_graphs(measured.decode_manifest),
    )


BY_CHOICES = ("router", "experts", "mlp")
"""Kinds of modules that the choices of routers change."""


def where_simulated(measured: Measured, suspect: str) -> Localisation | None:
    """Where modules diverge, for what is simulated; None where that was not recorded, and where
    routers that choose against their own logits account for the first module: no simulation brings
    that about, and what one does may be in any layer.
    """
    found, captures = measured.localisation, measured.captures
    layer, _ = _first_wrong(found, suspect)
    if found is None or layer is None:
        return found
    first = found.first_divergent_module
    if not any(m.name == first and m.kind in BY_CHOICES for m in found.per_module):
        return found
    choices = router_choices(captures[CAPTURED[suspect]], captures["ref"])
    return None if choices is not None and choices.first_layer == layer else found


def _replays_graphs(manifest: Manifest | None) -> bool:
    """Whether nothing says that the engine captures none."""
    said = {} if manifest is None else manifest.options
    return not said.get("enforce_eager", said.get("disable_cuda_graph", False))


def _first_wrong(localisation: Localisation | None, suspect: str) -> tuple[int | None, str]:
    """The first layer that leaves its floor on the suspect's side, and what of it, if known."""
    side = "train" if suspect == "train" else "infer"
    if localisation is None or localisation.side != side or suspect == "decode":
        return None, ""
    found = re.match(r"model\.layers\.(\d+)\.?(.*)", localisation.first_divergent_module or "")
    return (int(found.group(1)), found.group(2)) if found else (None, "")
