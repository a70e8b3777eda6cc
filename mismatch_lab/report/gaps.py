"""What this run did not measure, and what would: a gap is said, never shown as 0."""

from __future__ import annotations

import re

from mismatch_lab.engines.base import RECORDED
from mismatch_lab.findings.edges import EDGE_ABOUT
from mismatch_lab.report.edges import DRAWN, MEAN_ABS_DELTA
from mismatch_lab.report.run_files import RunFiles
from mismatch_lab.schema import Localisation

NO_HIDDEN_STATES = {
    "http": "a server returns no hidden states; an engine that is started here has them",
    RECORDED: "log-probs alone were recorded; sides that are started here have hidden states",
}
"""engine -> why no module was compared."""


def gaps(run: RunFiles) -> list[tuple[str, str]]:
    """(what is missing, why or what gives it), in the order of the page."""
    findings = run.findings
    found: list[tuple[str, str]] = []
    for name in DRAWN:
        estimate = findings.edges.get(name, {}).get(MEAN_ABS_DELTA)
        if estimate is None or estimate.n == 0:
            found.append((f"edge {name}", f"{EDGE_ABOUT[name]}; {_source(name)}"))
    if findings.noise_floor is None:
        found.append(("noise floor", "no reference was captured, so no edge can be judged by it"))
    if findings.localisation is None:
        engine = run.spec.infer.engine if run.spec is not None else ""
        how = "hidden states are recorded with --depth standard or deep"
        found.append(("localisation", NO_HIDDEN_STATES.get(engine, how)))
    if findings.routing is None:
        found.append(("routing", "the model has no routers, or their choices were not recorded"))
    if findings.calibration is None:
        found.append(
            ("calibration", "the engine's distributions of the sampled tokens were not at hand")
        )
    if run.spec is None:
        found.append(("what was asked", "there is no run.json beside these findings"))
    return [*found, *(("token view", problem) for problem in run.problems)]


def _source(edge: str) -> str:
    if edge.endswith("_ref"):
        return "it needs a capture of the fp32 reference"
    if edge in ("infer_infer", "train_train"):
        return "it needs the same side captured twice"
    return "it needs both captures"


def not_compared(found: Localisation | None) -> list[tuple[str, str]]:
    """(module, why) of those that could not be compared, a kind of module once for all layers."""
    left_out = [] if found is None else found.not_compared
    kinds: dict[str, str] = {}
    for one in left_out:
        kinds.setdefault(re.sub(r"(layers)\.\d+", r"\1.*", one.name), one.why)
    return list(kinds.items())
