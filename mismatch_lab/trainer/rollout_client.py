"""Roll-outs by an engine that a server has started, on this host or another."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mismatch_lab import errors
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.trainer.rollout import EngineSpec
from mismatch_lab.trainer.rollout_requests import Requests

TOKEN = "MISMATCH_LAB_ROLLOUT_TOKEN"
"""Environment variable: the same secret for the trainer and its servers."""
CONNECT_S = 10.0
"""To reach the server; what it is asked for may take as long as it takes."""


class ServerRollout(Requests):
    """Talks to `rollout_server`; weights are handed over in a folder that both hosts see."""

    def __init__(self, spec: EngineSpec) -> None:
        """Raises:
        InputError: no such server, another token, or a URL of something else.
        """
        self.spec = spec
        self.run = secrets.token_hex(8)
        self._token = token()
        self._open = False
        self.version = str(self.ask("start", spec=asdict(replace(spec, url="")))["version"])
        self._open = True

    def ask(self, what: str, **arguments: Any) -> Any:
        """See `Requests.ask`."""
        body = json.dumps({"do": what, "run": self.run, "arguments": arguments})
        try:
            status, text = self._post(body)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        if status == 401:
            raise InputError(
                f"The rollout server at {self.spec.url} refuses the token.",
                f"Set {TOKEN} to the server's own.",
            )
        try:
            answer = json.loads(text)
            done = answer["event"] == "done"
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.spec.url} is no rollout server (HTTP {status}).", HOW_TO_START
            ) from error
        if done:
            return answer["result"]
        kind = getattr(errors, answer["kind"], EngineError)
        raise kind(f"{self.spec.url}: {answer['problem']}", answer["hint"])

    def _post(self, body: str) -> tuple[int, bytes]:
        connection = _connection(self.spec.url)
        try:
            connection.connect()
            connection.sock.settimeout(None)
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request("POST", "/", body.encode(), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _unreachable(self, error: Exception) -> Exception:
        said = str(error) or type(error).__name__
        if not self._open:
            return InputError(f"No rollout server at {self.spec.url}: {said}.", HOW_TO_START)
        return EngineError(
            f"The rollout server at {self.spec.url} is gone: {said}.",
            "Start it again and go on with --resume.",
        )

    def restart(self, folder: Path) -> None:
        """See `Rollout.restart`."""
        self.ask("restart", folder=str(folder.resolve()))

    def close(self) -> None:
        """Let the server end the engine; one that is gone needs no telling."""
        if self._open:
            self._open = False
            try:
                self.ask("close")
            except errors.MismatchLabError:
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


def check_url(url: str) -> None:
    """Raise InputError for what cannot be the URL of a server."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        right = False
    if not right:
        raise InputError(f"{url!r} is no URL of a rollout server.", "http://HOST:PORT")


def _connection(url: str) -> HTTPConnection:
    check_url(url)
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
