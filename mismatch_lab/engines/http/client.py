"""HTTP to one server: bounded in time, size and tries; nothing it says is trusted.

A request ends when its time is up, wherever it hangs; an answer ends at its limit of bytes, which
follows from what was asked. A redirect is an error, since the key would go with it. GETs,
completions and checksums change nothing: they are tried again where the server refused them (429,
503), could not be reached, or closed the connection without a word. What changes something goes by
a client of one try (`trainer/rollout_client.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
from dataclasses import dataclass
from math import isfinite
from typing import Any

import httpx

from mismatch_lab.engines.http.address import KEY, quoted
from mismatch_lab.errors import EngineError, InputError

CONNECT_S = 10.0
TRIES = 6
"""Of one request that is safe to send again."""
TRIES_UNREACHED = 3
"""Where nobody answers."""
LONGEST_WAIT_S = 15.0
"""Between two of them, whatever the server asks for."""
SMALL_BYTES = 1 << 20
"""Of an answer that holds no distributions."""
LARGEST_BYTES = 256 << 20
"""Of any answer."""
BUSY = (429, 503)


@dataclass(frozen=True)
class Answer:
    """A whole answer: its status, and its body as JSON (None where it is none)."""

    status: int
    body: Any
    text: str
    """Its beginning, for people."""


class Client:
    """Speaks to one server."""

    def __init__(
        self,
        root: str,
        key: str,
        timeout_s: float,
        *,
        key_in: str = KEY,
        tries: int = TRIES,
        largest_bytes: int = LARGEST_BYTES,
    ) -> None:
        """Args:
        root: URL of the server.
        key: sent as a bearer's; empty for none.
        timeout_s: for one request with all its tries; infinity waits as long as it takes.
        key_in: environment variable that the key is from, for errors.
        tries: of one request; 1 for what must not be sent twice.
        largest_bytes: of any answer, whatever is asked for.
        """
        self.root = root
        self.timeout_s = timeout_s
        self.tries = tries
        self.largest_bytes = largest_bytes
        self._key, self._key_in = key, key_in
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        secure = ssl.create_default_context() if root.startswith("https:") else True
        self._http = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,  # neither a proxy nor .netrc is asked for
            verify=secure,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def get(self, path: str, limit: int = SMALL_BYTES) -> Answer:
        """See `ask`."""
        return await self.ask("GET", path, None, limit)

    async def post(self, path: str, body: dict[str, Any], limit: int = SMALL_BYTES) -> Answer:
        """See `ask`."""
        return await self.ask("POST", path, body, limit)

    async def text(self, path: str, limit: int = SMALL_BYTES) -> str:
        """What a GET answers, as text; empty for anything but status 200."""
        answer = await self.ask("GET", path, None, limit, as_json=False)
        return str(answer.body) if answer.status == 200 else ""

    def shown(self, text: str) -> str:
        """What the server said, fit for people."""
        return quoted(text, self._key)

    async def digest(self, path: str, hint: str) -> str:
        """Of the checksums of its weights that a server computes.

        Raises:
            InputError: it does not.
        """
        answer = await self.post(path, {"action": "checksum"}, 64 * SMALL_BYTES)
        body = answer.body if isinstance(answer.body, dict) else {}
        sums = body.get("checksums") or body.get("per_engine_checksum") or body.get("ranks")
        if answer.status != 200 or not sums:
            raise InputError(f"{self.root} computes no checksum (HTTP {answer.status}).", hint)
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:16]

    async def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        limit: int,
        as_json: bool = True,
    ) -> Answer:
        """The answer with status 200, or 400 to 499 (the caller knows what that means).

        Args:
            method: GET or POST.
            path: below the root.
            body: sent as JSON.
            limit: bytes that the answer may have.
            as_json: whether the body is read as JSON, not as text.

        Raises:
            EngineError: no answer in time, none at all, or one that is none.
            InputError: the key is missing or wrong.
        """
        where = f"{self.root}{path}"
        try:
            async with asyncio.timeout(self.timeout_s if isfinite(self.timeout_s) else None):
                limit = min(limit, self.largest_bytes)
                return await self._tried(method, where, body, limit, as_json)
        except TimeoutError:
            raise EngineError(
                f"{where} gave no whole answer within {self.timeout_s:g} s.",
                "Is the server busy? --engine-arg timeout_s=SECONDS waits longer.",
            ) from None

    async def _tried(
        self, method: str, where: str, body: dict[str, Any] | None, limit: int, as_json: bool
    ) -> Answer:
        for left in reversed(range(self.tries)):
            try:
                answer, wait_s = await self._once(method, where, body, limit, as_json)
            except (httpx.ConnectError, httpx.ConnectTimeout, _NoWordError) as error:
                if left <= max(0, self.tries - TRIES_UNREACHED):
                    raise self._unreachable(where, error) from None
                wait_s = 0.0
            except httpx.TimeoutException:
                raise TimeoutError from None
            except httpx.HTTPError as error:
                raise self._unreachable(where, error) from None
            except httpx.InvalidURL:
                raise InputError(f"{where} is no URL.", "Write http://HOST:PORT.") from None
            else:
                if answer.status not in BUSY:
                    return answer
                if not left:
                    raise EngineError(
                        f"{where} refused {self.tries} times, at last with HTTP {answer.status}: "
                        f"{answer.text or 'nothing said'}",
                        "The server is overloaded, or not ready: try later, or ask less of it at "
                        "a time with --engine-arg concurrency=1.",
                    )
            tried = self.tries - left
            backoff = min(LONGEST_WAIT_S, 0.25 * 2**tried) * random.uniform(0.5, 1.0)
            await asyncio.sleep(max(backoff, min(wait_s, LONGEST_WAIT_S)))
        raise AssertionError  # the last try returns or raises

    async def _once(
        self, method: str, where: str, body: dict[str, Any] | None, limit: int, as_json: bool
    ) -> tuple[Answer, float]:
        """The answer, and for how many seconds the server asks to be left alone."""
        request = self._http.build_request(method, where, json=body)
        try:
            response = await self._http.send(request, stream=True)
        except httpx.RemoteProtocolError as error:
            if "without sending a response" in str(error):
                raise _NoWordError(str(error)) from None
            raise
        try:
            self._check_head(response, where)
            raw = await self._read(response, where, limit)
        finally:
            await response.aclose()
        wait_s = _seconds(response.headers.get("retry-after"))
        return self._judged(response, raw, where, as_json), wait_s

    def _check_head(self, response: httpx.Response, where: str) -> None:
        if response.is_redirect or 300 <= response.status_code < 400:
            target = quoted(response.headers.get("location", ""), self._key)
            raise EngineError(
                f"{where} sends elsewhere (HTTP {response.status_code} to {target or 'nowhere'}): "
                "not followed, since the key would go with it.",
                "Name the server itself with --engine-url.",
            )
        if response.headers.get("content-encoding", "identity") != "identity":
            raise EngineError(f"{where} answers compressed, though that was not accepted.", PROXY)

    async def _read(self, response: httpx.Response, where: str, limit: int) -> bytes:
        raw = bytearray()
        async for chunk in response.aiter_raw():
            if len(raw) + len(chunk) > limit:
                raise EngineError(
                    f"{where} answers with more than {limit:,} bytes, which is more than was "
                    "asked for.",
                    PROXY,
                )
            raw += chunk
        return bytes(raw)

    def _judged(self, response: httpx.Response, raw: bytes, where: str, as_json: bool) -> Answer:
        status = response.status_code
        text = quoted(raw[:4096].decode("utf-8", "replace"), self._key)
        if status in (401, 403):
            given = "refuses the key" if self._key else "wants an API key"
            raise InputError(
                f"{where} {given} (HTTP {status}).",
                f"Put the server's key into the environment variable {self._key_in}.",
            )
        if status in BUSY:
            return Answer(status, None, text)
        if status >= 500 or status < 200:
            raise EngineError(f"{where} failed (HTTP {status}): {text or 'nothing said'}", ITS_LOG)
        if not as_json:
            return Answer(status, raw.decode("utf-8", "replace"), text)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            if status >= 400:
                return Answer(status, None, text)
            raise EngineError(
                f"{where} answers with what is no JSON: {text or 'nothing'}", PROXY
            ) from None
        return Answer(status, body, text)

    def _unreachable(self, where: str, error: Exception) -> EngineError:
        said = quoted(str(error), self._key) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return EngineError(
                f"No server answers at {self.root}: {said}.",
                "Is it running, and is the port right? A server that was there a moment ago has "
                "ended: see its log.",
            )
        return EngineError(
            f"{where} broke its answer off: {said}.",
            f"It ended, was restarted, or something between cuts answers. {ITS_LOG}",
        )


class _NoWordError(Exception):
    """The connection was closed before anything was said, as a kept one may be."""


PROXY = "Is that an inference server, with nothing between it and here?"
ITS_LOG = "The server's log says more."


def _seconds(header: str | None) -> float:
    try:
        wait_s = float(header or 0)
    except ValueError:  # a date
        return 0.0
    return wait_s if 0 <= wait_s < 1e9 else 0.0
