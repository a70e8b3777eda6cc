"""The catalogue of causes, read from the TOML files beside this module: one a family.

The texts are for those who know the field and not this code: a section a cause, and wrong ones are
refused with file, section and key. Ids are stable: findings, scripts and people refer to them.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mismatch_lab.errors import InputError

Family = Literal[
    "semantics", "precision", "tokens", "attention", "cache", "moe", "weights", "trainer", "record"
]
"""In the order of the catalogue; each has its file."""
FRAMEWORKS = ("verl", "TRL", "NeMo-RL", "slime", "FSDP")
"""Users that every cause has a remedy for, by name."""


def _paragraph(text: str) -> str:
    """One line of a text that is wrapped in the file, so that its changes can be read there."""
    if not text.strip():
        raise ValueError("the text is missing")
    return " ".join(text.split())


Text = Annotated[str, AfterValidator(_paragraph)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CauseEntry:
    """One cause: what it is, how it shows, what confirms it, what to do."""

    id: str
    family: Family
    title: Text
    """A few words: what is wrong."""
    mechanism: Text
    """Why the sides then disagree."""
    signature: Text
    """What it predicts of the observations."""
    confirmation: Text
    """The experiment that separates it from its neighbours."""
    remedy: Text
    """What to do, in one or two sentences, whatever the framework."""
    remedies: dict[str, Text]
    """framework -> setting or step; every one of FRAMEWORKS."""
    sources: tuple[str, ...]
    """Where it was seen: URLs."""
    neighbours: tuple[str, ...]
    """Causes it is easily taken for."""
    tells_apart: dict[str, Text] = field(default_factory=dict)
    """neighbour -> how the two are told apart; a pair is said in the section of one of them."""
    fault: str | None = None
    """The plantable fault that proves the entry; None for what is no fault (the floor)."""
    largest_nats: float = math.inf
    """mean |delta| beyond which it cannot be this: a rounding moves a logit by its unit roundoff
    times the largest logits that models have, some 100 nats."""


def load_catalogue(folder: Path) -> dict[str, CauseEntry]:
    """Every cause of a folder with a file a family, by id, in the order of the families.

    Raises:
        InputError: a file is missing, too many or no TOML, or a section is wrong; says which.
    """
    families = get_args(Family)
    for path in sorted(folder.glob("*.toml")):
        if path.stem not in families:
            raise InputError(
                f"{path}: there is no family {path.stem!r}.", f"There are {', '.join(families)}."
            )
    causes: dict[str, CauseEntry] = {}
    for family in families:
        path = folder / f"{family}.toml"
        for id, section in _read(path).items():
            if id in causes:
                raise _wrong(path, id, f"{causes[id].family}.toml has a cause of this name")
            causes[id] = _entry(path, id, section)
    for cause in causes.values():
        _check_neighbours(folder / f"{cause.family}.toml", cause, causes)
    # What is none of the others comes after them, whichever file it is in.
    return {id: causes[id] for id in sorted(causes, key="unlisted".__eq__)}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error


def _wrong(path: Path, id: str, what: str) -> InputError:
    return InputError(f"{path}, [{id}]: {what}.")


def _entry(path: Path, id: str, section: Any) -> CauseEntry:
    if not isinstance(section, dict):
        raise InputError(
            f"{path}: {id!r} stands in no section; begin one with [name-of-the-cause]."
        )
    for key in ("id", "family"):
        if key in section:
            raise _wrong(path, id, f"{key}: the name of the section or file says it")
    try:
        cause = TypeAdapter(CauseEntry).validate_python({**section, "id": id, "family": path.stem})
    except ValidationError as error:
        # All of them: a misspelt key is one that is missing and one that is unknown.
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise _wrong(path, id, "; ".join(problems)) from error
    if set(cause.remedies) != set(FRAMEWORKS):
        raise _wrong(
            path, id, f"remedies: {', '.join(cause.remedies)}; want {', '.join(FRAMEWORKS)}"
        )
    return cause


def _check_neighbours(path: Path, cause: CauseEntry, causes: dict[str, CauseEntry]) -> None:
    """Each exists and is told apart once; no sentence stands where nobody sees it."""
    for neighbour in cause.neighbours:
        if neighbour not in causes or neighbour == cause.id:
            raise _wrong(path, cause.id, f"neighbours: there is no other cause {neighbour!r}")
        said = (neighbour in cause.tells_apart) + (cause.id in causes[neighbour].tells_apart)
        if said != 1:
            raise _wrong(
                path,
                cause.id,
                f"tells_apart: what separates it from {neighbour!r} is said "
                f"{'twice' if said else 'nowhere'}; say it once, in either section",
            )
    for other in cause.tells_apart:
        if other not in cause.neighbours:
            raise _wrong(path, cause.id, f"tells_apart: {other!r} is none of its neighbours")


CAUSES = load_catalogue(Path(__file__).parent)
"""By id, family by family."""


def load_cause(id: str) -> CauseEntry:
    """The entry of one cause.

    Raises:
        InputError: there is no such cause; says which there are.
    """
    if id not in CAUSES:
        raise InputError(f"Unknown cause {id!r}.", f"Available: {', '.join(sorted(CAUSES))}.")
    return CAUSES[id]


def all_causes() -> list[CauseEntry]:
    """Every entry, in the catalogue's order."""
    return list(CAUSES.values())


def tells_apart(a: str, b: str) -> str:
    """How to tell two neighbouring causes apart.

    Raises:
        KeyError: they are no neighbours.
    """
    said = CAUSES[a].tells_apart
    return said[b] if b in said else CAUSES[b].tells_apart[a]
