"""What to try next, as a command: the user's own with one thing changed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mismatch_lab.engines.base import BLACK_BOXES, RECORDED
from mismatch_lab.engines.plan import floor_dtype
from mismatch_lab.findings.verdict import Decision
from mismatch_lab.schema import RunSpec, ThreeWay


def next_command(run: RunSpec, decision: Decision, three: ThreeWay | None = None) -> str:
    """What to try next: the user's own command with one option changed; where the second engine
    stands alone, with that engine by itself.
    """
    if run.second is not None and three is not None and three.stands_alone == "second":
        return engine_by_itself(run.provenance.command, run.second.engine)
    if run.infer.engine == RECORDED:
        return _of_record(run, decision)
    deeper = {"quick": "standard", "standard": "deep"}
    shown = run.infer.engine not in BLACK_BOXES  # else neither modules nor another precision
    if decision.status == "mismatch" and run.depth in deeper and shown:
        return with_option(run.provenance.command, "--depth", deeper[run.depth])
    if decision.status in ("mismatch", "numerics") and floor_dtype(run) != "float32" and shown:
        return with_option(run.provenance.command, "--dtype", "float32")
    if decision.status == "underpowered" and 0 < len(run.prompts) < run.probe.limits.min_rows:
        # A handful of prompts is the user's own file: a probe has enough, and answers long enough.
        fewer = without(without(run.provenance.command, "--prompts"), "--max-tokens")
        return with_option(fewer, "--probe", "standard")
    if decision.status == "underpowered":
        more = str(4 * run.probe.sampling.max_tokens)
        return with_option(run.provenance.command, "--max-tokens", more)
    if decision.status != "error":
        other = "long-context" if run.probe.name != "long-context" else "temperature"
        return with_option(run.provenance.command, "--probe", other)
    return "mismatch-lab doctor"


def _of_record(run: RunSpec, decision: Decision) -> str:
    """More rows of it; of a mismatch, both sides here, where modules can be seen."""
    if decision.status in ("mismatch", "error"):
        return shlex.join(["mismatch-lab", "diagnose", run.infer.model, "--depth", "standard"])
    return with_option(run.provenance.command, "--sample", str(4 * max(1, len(run.prompts))))


_OF_ONE_RUN = {"--out": 1, "--overwrite": 0, "--resume": 0, "--json": 0, "--debug": 0}
"""Options of the last run that the next must not repeat, with their number of values."""


def resuming(command: Sequence[str], folder: str) -> str:
    """The whole command that goes on with a run that was ended."""
    words = [word for word in without(command, "--out") if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--out", folder, "--resume"])


OF_ENGINES = {"--engine-arg", "--engine-python", "--engine-plugin"}
"""Options whose value begins with `ENGINE:` where a run names two."""

OF_FIRST_ENGINE = {"--engine", "--engine-config", "--weight-update"}
"""Options of the engine that samples."""


def engine_by_itself(argv: Sequence[str], engine: str) -> str:
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


def without(argv: Sequence[str], option: str) -> list[str]:
    """The command without one option and its value."""
    words, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word == option:
            skip = True
        elif not word.startswith(f"{option}="):
            words.append(word)
    return words


def with_option(argv: Sequence[str], option: str, value: str) -> str:
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
