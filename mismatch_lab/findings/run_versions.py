"""The versions of a run's tensors: its checkpoints and captures in, what the engine has out."""

from __future__ import annotations

from collections.abc import Mapping

from mismatch_lab.captures.capture import Capture
from mismatch_lab.checkpoints.tensors import stored_tensors
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.engines.plan import changed_groups
from mismatch_lab.findings.tensor_changes import changed_tensors
from mismatch_lab.findings.versions import Versions, find_versions
from mismatch_lab.schema import Localisation, RunSpec


def measure_versions(
    run: RunSpec, captures: Mapping[str, Capture], localisation: Localisation | None
) -> Versions | None:
    """None without `--weights-before`, or where no modules were fed with tensors of before.

    Raises:
        InputError: a checkpoint is no longer there.
    """
    before = run.infer.weights_before
    if before is None or localisation is None or run.infer.engine in BLACK_BOXES:
        return None
    uses = find_versions(
        captures,
        localisation,
        changed_groups(run),
        changed_tensors(before, run.infer.model),
        run.probe.limits.module_floor_ratio,
        tied="lm_head.weight" not in stored_tensors(run.infer.model),
    )
    return Versions(before, run.infer.weight_update, uses)
