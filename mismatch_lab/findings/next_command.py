"""What to try next, as a command: the user's own with one thing changed."""

from __future__ import annotations

import shlex

from mismatch_lab.attribution.verdict import Decision
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.plan import floor_dtype
from mismatch_lab.schema import RunSpec, ThreeWay


def next_command(run: RunSpec, decision: Decision, three: ThreeWay | None = None) -> str:
    """What to try next: the user's own command with one option changed; where the second engine
    stands alone, with that engine by itself.
    """
    if run.second is not None and three is not None and three.stands_alone == "second":
        return engine_by_itself(run.provenance.command, run.second.engine)
    deeper = {"quick": "standard", "standard": "deep"}
    shown = run.infer.engine not in BLACK_BOXES  # else neither modules nor another precision
    if decision.status == "mismatch" and run.depth in deeper and shown:
        return with_option(run.provenance.command, "--depth", deeper[run.depth])
    if decision.status in ("mismatch", "numerics") and floor_dtype(run) != "float32" and shown:
        return with_option(run.provenance.command, "--dtype", "float32")
    if decision.status == "underpowered" and 0 < len(run.prompts) < run.probe.limits.min_rows:
        return with_option(run.provenance.command, "--probe", "moe")
    if decision.status == "underpowered":
        more = str(4 * run.probe.sampling.max_tokens)
        return with_option(run.provenance.command, "--max-tokens", more)
    if decision.status != "error":
        other = "long-context" if run.probe.name != "long-context" else "temperature"
        return with_option(run.provenance.command, "--probe", other)
    return "mismatch-lab doctor"


_OF_ONE_RUN = {"--out": 1, "--overwrite": 0, "--json": 0, "--debug": 0}
"""Options of the last run that the next must not repeat, with their number of values."""


OF_ENGINES = {"--engine-arg", "--engine-python", "--engine-plugin"}
"""Options whose value begins with `ENGINE:` where a run names two."""

OF_FIRST_ENGINE = {"--engine", "--engine-config", "--weight-update"}
"""Options of the engine that samples."""


def engine_by_itself(argv: list[str], engine: str) -> str:
    """The command that diagnoses the second engine of a three-way run, with its own options."""
    words, rest = ["mismatch-lab"], iter(argv[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in OF_ENGINES | OF_FIRST_ENGINE | {"--engine-url"}:
            words.append(word)
            continue
        given = value if equals else next(rest)
        if given.startswith(f"{engine}:") or (name == "--engine-url" and engine == "http"):
            words += [name, given]
    return with_option(words, "--engine", engine)


def with_option(argv: list[str], option: str, value: str) -> str:
    """The command of a run with one option set otherwise, less what belongs to that run."""
    words, skip = [], 0
    for word in argv[1:] or ["diagnose"]:
        name = word.partition("=")[0]
        if skip:
            skip -= 1
        elif name in _OF_ONE_RUN or name == option:
            skip = 0 if "=" in word else _OF_ONE_RUN.get(name, 1)
        else:
            words.append(word)
    return shlex.join(["mismatch-lab", *words, option, value])
