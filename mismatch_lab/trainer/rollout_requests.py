"""A `Rollout` whose engine is elsewhere: its methods as JSON requests and their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mismatch_lab.trainer.arrays_as_json import decode
from mismatch_lab.trainer.rollout import Draw, Transfer
from mismatch_lab.trainer.sampled import Answer

NAN = float("nan")


class Requests(ABC):
    """What asks is left open: a pipe, a connection."""

    @abstractmethod
    def ask(self, what: str, **arguments: Any) -> Any:
        """The answer of `rollout_worker.Server`'s method of that name, as JSON has it.

        Raises:
            MismatchLabError: what the engine reported, or how it died.
        """

    def sample(self, contexts: list[list[int]], room: list[int], draw: Draw) -> list[Answer]:
        """See `Rollout.sample`."""
        found = self.ask("sample", contexts=contexts, room=room, draw=asdict(draw))
        return [
            Answer(
                answer["token_ids"],
                answer["logp_infer"],
                answer["truncated"],
                decode(answer["routing"]) if "routing" in answer else None,
                decode(answer["support"]) if "support" in answer else None,
            )
            for answer in found
        ]

    def score(self, rows: list[list[int]], temperature: float) -> list[list[float]]:
        """See `Rollout.score`."""
        found = self.ask("score", rows=rows, temperature=temperature)
        return [[NAN, *logp] for logp in found]

    def transfer(self, folder: Path) -> Transfer:
        """See `Rollout.transfer`."""
        return _transfer(self.ask("transfer", folder=str(folder.resolve())))

    def verify(self, folder: Path) -> Transfer:
        """See `Rollout.verify`."""
        return _transfer(self.ask("verify", folder=str(folder.resolve())))

    def flush(self) -> None:
        """See `Rollout.flush`."""
        self.ask("flush")


def _transfer(found: dict[str, Any]) -> Transfer:
    return Transfer(
        found["sent"],
        found["compared"],
        tuple(found["stale"]),
        tuple(found["uncompared"]),
        found["error"],
    )
