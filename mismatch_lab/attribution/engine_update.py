"""What an update of the engine's weights explains: tensors that stayed old, caches that remain."""

from __future__ import annotations

from collections.abc import Mapping

from mismatch_lab.attribution.decode_rows import decode_rows
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.lab import Lab, OutOfTimeError
from mismatch_lab.attribution.mixture import check_mixture, stale_weights
from mismatch_lab.attribution.versions import version_causes
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.run_versions import measure_versions
from mismatch_lab.schema import Cause, Localisation, Manifest, RunSpec


def old_tensors(
    run: RunSpec,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    lab: Lab,
    floor_nats: float,
) -> tuple[list[Cause], Explanation]:
    """Causes in tensors that the engine has from before its last update, and what simulates them.

    Both empty without `--weights-before`, or at a depth that records no modules.
    """
    before = run.infer.weights_before
    versions = measure_versions(run, captures, localisation)
    if before is None or versions is None:
        return [], ()
    try:
        check = check_mixture(
            versions, before, captures["prefill"], captures["ref"], lab.score, floor_nats
        )
    except OutOfTimeError:
        check = None
    causes = version_causes(versions, check)
    alterations = stale_weights(versions, before)
    if not causes or not alterations:
        return causes, ()
    label = f"{len(alterations[0].tensors or ())} tensors as before the update"
    return causes, (Hypothesis(causes[0].id, label, model=alterations),)


def outlived(captures: Mapping[str, Capture], manifest: Manifest, limit_nats: float) -> list[Cause]:
    """Caches or graphs that hold what was computed before the update."""
    rows = decode_rows(
        captures["decode"], captures["prefill"], captures["train"], manifest, limit_nats
    )
    return version_causes(None, None, rows)
