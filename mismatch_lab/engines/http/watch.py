"""Whether servers stay what they were: one that is restarted or updated in mid-run is an error."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from mismatch_lab.engines.http.gaps import APART
from mismatch_lab.engines.http.server import Identity, Server
from mismatch_lab.errors import EngineError, InputError

Run = Callable[[Coroutine[Any, Any, Any]], Any]

APART_NATS = 0.05
"""mean |delta| of one prompt between servers, from which on they do not run the same model."""
NAMES = {
    "version": "another version", "model": "another model", "started": "another start",
    "weights": "another version of its weights", "checksum": "other weights",
}  # fmt: skip
AGAIN = "What came before and after is not one policy. Run it again once the server is left alone."


class Watch:
    """Compares what servers say of themselves with what they said at first."""

    def __init__(self, servers: Sequence[Server], run: Run, checksum: bool = False) -> None:
        """Args:
        servers: as they are now.
        run: runs a coroutine.
        checksum: have them compute one each time.
        """
        self.servers = servers
        self.run = run
        self.checksum = checksum
        self.first: list[Identity] = [run(self._asked(server)) for server in servers]
        self.weights: dict[int, str] = {}

    async def _asked(self, server: Server) -> Identity:
        found = await server.identity()
        return found | {"checksum": await server.checksum()} if self.checksum else found

    @property
    def words(self) -> str:
        """A digest of all of it: equal for equal servers that were not started again."""
        text = json.dumps([sorted(one.items()) for one in self.first])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def unchanged(self) -> None:
        """Ask again.

        Raises:
            EngineError: a server is not what it was.
        """
        for server, before in zip(self.servers, self.first, strict=True):
            now = self.run(self._asked(server))
            changed = [name for name in before if now.get(name) != before[name]]
            if changed:
                raise self._changed(server, NAMES[changed[0]])

    def saw(self, number: int, weight_version: str) -> None:
        """An answer was given with these weights.

        Raises:
            EngineError: an earlier one was given with others.
        """
        before = self.weights.setdefault(number, weight_version)
        if before != weight_version:
            raise self._changed(self.servers[number], NAMES["weights"])

    def _changed(self, server: Server, what: str) -> EngineError:
        return EngineError(f"{server.client.root} changed while it was asked: {what}.", AGAIN)


def check_alike(servers: Sequence[Server], ids: list[int], run: Run) -> None:
    """Several servers must be one: same kind, version and model, and the same log-probs.

    Raises:
        InputError: two of them are not.
    """
    one = servers[0]
    for other in servers[1:]:
        ours, theirs = one.facts, other.facts
        for name, a, b in (
            ("programs", f"{ours.kind} {ours.version}", f"{theirs.kind} {theirs.version}"),
            ("models", f"{ours.model} {ours.root}", f"{theirs.model} {theirs.root}"),
        ):
            if a != b:
                raise InputError(
                    f"{one.client.root} and {other.client.root} are different {name}: {a}, {b}.",
                    APART,
                )
    if len(servers) < 2 or len(ids) < 2:
        return
    salt = secrets.token_hex(16)
    found = [run(server.score(ids, 0, salt)).logp[1:] for server in servers]
    for server, logp in zip(servers[1:], found[1:], strict=True):
        apart = float(np.abs(logp - found[0]).mean())
        if not apart <= APART_NATS:
            raise InputError(
                f"{one.client.root} and {server.client.root} do not run the same weights: "
                f"mean |delta| {apart:.2g} nats on one prompt.",
                APART,
            )
