"""A server that starts an engine for a trainer elsewhere: `rollout.engine = "vllm-server"`.

    MISMATCH_LAB_ROLLOUT_TOKEN=… python -m mismatch_lab.trainer.rollout_server --port 8000

It has no settings of the engine: the trainer sends them, and the engine is the same process that
it would have started itself. Requests are those of `rollout_worker`, one at a time, as JSON over
HTTP; weights are read from the trainer's run folder, which must be on a disk that both see. Who
has the token can run code here: bind it to networks that you trust, or tunnel to 127.0.0.1.
"""

from __future__ import annotations

import argparse
import hmac
import json
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from mismatch_lab.errors import EngineError, InputError, MismatchLabError
from mismatch_lab.processes.messages import Failed
from mismatch_lab.trainer.rollout import REQUESTS, Close, EngineSpec, Request, Restart, Rollout
from mismatch_lab.trainer.rollout_client import token
from mismatch_lab.trainer.rollout_vllm import VllmRollout

REFUSED_BYTES = 1 << 20
"""Read of a request that is refused: a client that is cut off would not see the refusal."""
READ_S = 60.0
"""For a request to arrive: one that does not must not hold the server."""


class Host:
    """The engine of the run that asked last."""

    def __init__(self, begin: Callable[[EngineSpec], Rollout], log: Path) -> None:
        self.begin = begin
        self.log = log
        self.run = ""
        self.engine: Rollout | None = None

    def answer(self, run: str, request: Any) -> Any:
        """What the engine of a run says.

        Raises:
            MismatchLabError: the engine's own, or the request is not of this run.
        """
        if isinstance(request, EngineSpec):
            self.close()
            self.run = run
            self.engine = self.begin(replace(request, log=str(self.log)))
            return self.engine.version
        if self.engine is None or run != self.run:
            raise EngineError("The server has no engine of this run; another has taken it over.")
        folder = getattr(request, "folder", None)
        if folder is not None and not folder.is_dir():
            raise InputError(
                f"The server sees no folder {folder}.", "Put --out on a disk that both hosts have."
            )
        if isinstance(request, Request):
            return self.engine.ask(request, object)
        match request:
            case Close():
                self.close()
            case Restart():
                self.engine.restart(request.folder)
            case _:
                raise InputError(f"The server has no request {type(request).__name__}.")
        return True

    def close(self) -> None:
        """End the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def serve(host: Host, bind: str, port: int, secret: str) -> HTTPServer:
    """An HTTP server that is bound and not yet started; port 0 takes a free one.

    Raises:
        InputError: the address cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_S

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
                self.rfile.read(min(length, REFUSED_BYTES))
                self.send_error(401)
                return
            body = self.rfile.read(length)
            answer = json.dumps(_answered(host, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: Any) -> None:
            """A line for every request would be all that is seen."""

    try:
        return HTTPServer((bind, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"Cannot listen on {bind}:{port}: {error}.") from error


def _answered(host: Host, body: bytes) -> list[Any]:
    try:
        asked = json.loads(body)
        return REQUESTS.plain(host.answer(asked["run"], REQUESTS.read(asked["request"])))
    except MismatchLabError as error:
        return REQUESTS.plain(Failed.of(error))
    except Exception as error:
        traceback.print_exc()
        return REQUESTS.plain(Failed("EngineError", f"{type(error).__name__}: {error}"))


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Engines for a trainer elsewhere.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bind", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--log", type=Path, default=Path("rollout-server.log"))
    given = parser.parse_args(arguments)
    host = Host(VllmRollout, given.log)
    try:
        server = serve(host, given.bind, given.port, token())
    except MismatchLabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that `finally` ends the engine
    print(f"http://{given.bind}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        host.close()
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
