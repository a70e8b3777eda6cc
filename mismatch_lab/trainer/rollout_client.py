"""Roll-outs by an engine that a server has started, on this host or another."""

from __future__ import annotations

import asyncio
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from mismatch_lab.engines.http.address import checked_url
from mismatch_lab.engines.http.client import Answer, Client
from mismatch_lab.errors import EngineError, InputError, MismatchLabError
from mismatch_lab.processes.messages import Failed
from mismatch_lab.trainer.rollout import REQUESTS, Close, EngineSpec, Found, Restart, Rollout

TOKEN = "MISMATCH_LAB_ROLLOUT_TOKEN"
"""Environment variable: the same secret for the trainer and its servers."""
LARGEST_BYTES = 16 << 30
"""Of an answer: a step's rows with the experts they chose and the tokens they were drawn from."""


class ServerRollout(Rollout):
    """Talks to `rollout_server`; weights are handed over in a folder that both hosts see."""

    def __init__(self, spec: EngineSpec) -> None:
        """Raises:
        InputError: no such server, another token, or a URL of something else.
        """
        self.spec = spec
        self.run = secrets.token_hex(8)
        self._token = token()
        self._open = False
        self.version = self.ask(replace(spec, url=""), str)
        self._open = True

    def ask(self, request: Any, wanted: type[Found]) -> Found:
        """See `Rollout.ask`."""
        body = {"run": self.run, "request": REQUESTS.plain(request)}
        try:
            # In a thread of its own: a notebook has a loop that runs in this one.
            with ThreadPoolExecutor(1) as thread:
                given = thread.submit(asyncio.run, self._post(body)).result()
        except EngineError as error:
            raise self._unreachable(error) from error
        try:
            answer = REQUESTS.read(given.body)
        except ValueError:
            answer = None
        if isinstance(answer, wanted):
            return answer
        if isinstance(answer, Failed):
            raise answer.error(said_by=f"{self.spec.url}: ")
        raise InputError(
            f"{self.spec.url} is no rollout server (HTTP {given.status}).", HOW_TO_START
        )

    async def _post(self, body: dict[str, Any]) -> Answer:
        """Sent once: an update must not be made twice. It takes as long as the engine does."""
        client = Client(
            server_url(self.spec.url),
            self._token,
            timeout_s=inf,
            key_in=TOKEN,
            tries=1,
            largest_bytes=LARGEST_BYTES,
        )
        try:
            return await client.post("/", body, LARGEST_BYTES)
        finally:
            await client.close()

    def _unreachable(self, error: EngineError) -> Exception:
        if not self._open:
            return InputError(
                f"No rollout server at {self.spec.url}: {error.problem}", HOW_TO_START
            )
        return EngineError(
            f"The rollout server at {self.spec.url} is gone: {error.problem}",
            "Start it again and go on with --resume.",
        )

    def restart(self, folder: Path) -> None:
        """See `Rollout.restart`."""
        self.ask(Restart(folder.resolve()), bool)

    def close(self) -> None:
        """Let the server end the engine; one that is gone needs no telling."""
        if self._open:
            self._open = False
            try:
                self.ask(Close(), bool)
            except MismatchLabError:
                return


HOW_TO_START = "Start one: python -m mismatch_lab.trainer.rollout_server --port PORT"


def token() -> str:
    """The secret of the environment.

    Raises:
        InputError: there is none.
    """
    found = os.environ.get(TOKEN, "")
    if not found:
        raise InputError(
            f"A rollout server needs a token in {TOKEN}.",
            "Any secret text, the same for the trainer and its servers.",
        )
    return found


def server_url(url: str) -> str:
    """The server's root; raises InputError for what cannot be the URL of one."""
    return checked_url(url, "rollout.urls", TOKEN)
