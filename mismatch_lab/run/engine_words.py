"""Options of engines as typed: which of them is whose, where a run names two engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mismatch_lab.engines.base import ENGINES
from mismatch_lab.errors import InputError

MOST_ENGINES = 2
"""One samples, the other scores what was sampled."""


@dataclass(frozen=True)
class EngineOptions:
    """One engine with its own options."""

    engine: str | None
    """None where none is named: the default, or what servers and files say."""
    args: tuple[str, ...] = ()
    """`NAME=VALUE` each."""
    python: str | None = None
    plugin: str | None = None
    urls: tuple[str, ...] = ()


def options_of_engines(
    engines: Sequence[str],
    args: Sequence[str],
    pythons: Sequence[str],
    plugins: Sequence[str],
    urls: Sequence[str],
) -> tuple[EngineOptions, EngineOptions | None]:
    """The engine that samples and, where two are named, the one that scores.

    An option of one of two engines begins with its name: `--engine-arg sglang:NAME=VALUE`,
    `--engine-plugin vllm:FILE.py:FUNC`. Servers are those of the engine `http`.

    Raises:
        InputError: an engine is named twice, or more than two are; an option that does not say
            whose it is, is of an engine that is not named, or is given twice.
    """
    _check_named(engines, urls)
    first, *others = [
        EngineOptions(
            engine,
            _own("--engine-arg", args, engine, engines),
            _single("--engine-python", pythons, engine, engines),
            _single("--engine-plugin", plugins, engine, engines),
            tuple(urls) if len(engines) < MOST_ENGINES or engine == "http" else (),
        )
        for engine in engines or (None,)
    ]
    return first, others[0] if others else None


def _check_named(engines: Sequence[str], urls: Sequence[str]) -> None:
    if len(engines) > MOST_ENGINES or len(set(engines)) < len(engines):
        raise InputError(
            f"--engine {' '.join(engines)}: at most two, and not the same one twice.",
            "The first samples, the other scores the same tokens.",
        )
    if len(engines) == MOST_ENGINES and urls and "http" not in engines:
        raise InputError(
            "--engine-url: which of the two engines are the servers?",
            f"Name them so: --engine {engines[0]} --engine http.",
        )


def _own(
    flag: str, values: Sequence[str], engine: str | None, engines: Sequence[str]
) -> tuple[str, ...]:
    """The values that are the engine's, without its name."""
    found = []
    for value in values:
        owner, colon, rest = value.partition(":")
        if not colon or owner not in ENGINES:
            owner, rest = "", value
        if owner and owner not in engines:
            raise InputError(f"{flag} {value}: no --engine {owner} is named.")
        if not owner and len(engines) == MOST_ENGINES:
            raise InputError(
                f"{flag} {value}: of which engine?",
                " or ".join(f"{flag} {name}:{value}" for name in engines) + ".",
            )
        if owner in ("", engine):
            found.append(rest)
    return tuple(found)


def _single(
    flag: str, values: Sequence[str], engine: str | None, engines: Sequence[str]
) -> str | None:
    own = _own(flag, values, engine, engines)
    if len(own) > 1:
        raise InputError(f"{flag} is given twice.", "Once for each engine.")
    return own[0] if own else None
