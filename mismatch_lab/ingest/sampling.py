"""How the engine sampled: of flags, and of what the dump holds. Nothing is assumed.

A temperature that is taken to be 1 and is not looks like a defect of the trainer; so do top-p and
the like. Where neither the dump nor a flag says, nothing is ingested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from mismatch_lab.errors import InputError
from mismatch_lab.schema import LogprobSpace, OptionValue, Sampling

NUMBERS = ("temperature", "top_p", "top_k", "min_p")
WHOLE_VOCABULARY = {"top_p": 1.0, "top_k": 0.0, "min_p": 0.0}
"""Values that leave nothing out; top-k has -1 as well."""

Value = float | str


@dataclass(frozen=True)
class Known:
    """What a capture says of the sampling."""

    sampling: Sampling
    space: LogprobSpace
    options: dict[str, OptionValue]


@dataclass
class HowSampled:
    """What is said of it, by name: temperature, top_p, top_k, min_p and logprobs."""

    flags: Mapping[str, Value]
    """Of the command line, those that were given."""
    held: dict[str, Value] = field(default_factory=dict)
    """Of the dump."""

    def hold(self, where: str, name: str, value: Value | None) -> None:
        """The dump says it.

        Raises:
            InputError: a flag says otherwise, or it is nothing that can be said.
        """
        if value is None or (name != "logprobs" and not isinstance(value, int | float)):
            raise InputError(f"{where}: {name} is {value!r}.")
        said = self.flags.get(name)
        if said is not None and _same(name, said) != _same(name, value):
            flag = _flag(name)
            raise InputError(
                f"{where} says {name} {value}, and {flag} is {said}.", f"Leave {flag} out."
            )
        self.held[name] = value

    def hold_support(self, where: str, name: str) -> None:
        """The dump has the part of the vocabulary that was drawn from.

        Raises:
            InputError: the flags say that all of it was.
        """
        said = {**self.held, **self.flags}
        if WHOLE_VOCABULARY.keys() <= said.keys() and not _truncates(said):
            raise InputError(
                f"{where} holds {name}, the part of the vocabulary that was drawn from: the engine "
                "truncated, and --top-p, --top-k and --min-p say that it did not.",
                "Give them as the run had them.",
            )

    def known(self, usual: str) -> Known:
        """All of it.

        Args:
            usual: flags as the framework has them by default, for people; empty where it has none.

        Raises:
            InputError: some of it is said by nobody, and matters; or is out of range.
        """
        said = {**self.held, **self.flags}
        missing = [name for name in NUMBERS if name not in said]
        plain = not missing and float(said["temperature"]) == 1 and not _truncates(said)
        if not plain and "logprobs" not in said:
            missing.append("logprobs")
        if missing:
            theirs = f" By default it is {usual}." if usual else ""
            raise InputError(
                "The dump does not say how the engine sampled: "
                f"{', '.join(map(_flag, missing))} missing.",
                "Without them nothing can be compared, and nothing is assumed: say what the run "
                f"had.{theirs}",
            )
        space = str(said.get("logprobs", "processed"))
        if space not in get_args(LogprobSpace):
            raise InputError(f"--logprobs {space!r}: raw or processed.")
        temperature, top_p, top_k, min_p = (float(said[name]) for name in NUMBERS)
        if not (temperature > 0 and 0 < top_p <= 1 and top_k >= -1 and 0 <= min_p <= 1):
            raise InputError(
                f"temperature {temperature:g}, top_p {top_p:g}, min_p {min_p:g}, top_k {top_k:g}: "
                "one is out of range.",
                "At temperature 0 nothing is drawn, and log-probs say nothing of a policy.",
            )
        return Known(
            Sampling(temperature=temperature, top_p=top_p),
            space,  # type: ignore[arg-type]
            {"top_k": int(max(top_k, 0)), "min_p": min_p},
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _same(name: str, value: Value) -> Value:
    """A value as it is compared: -1 and 0 are both no top-k."""
    if isinstance(value, str):
        return value
    return max(float(value), 0.0) if name == "top_k" else float(value)


def _truncates(said: Mapping[str, Value]) -> bool:
    return any(_same(name, said[name]) != whole for name, whole in WHOLE_VOCABULARY.items())
