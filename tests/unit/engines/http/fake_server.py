"""Fakes of vLLM's and SGLang's servers, in a thread: what both answer to a few requests.

The model behind them is a table: the log-probs of the next token depend on the last one alone, so
that every number can be worked out. The fields are those of vLLM 0.32 and SGLang 0.5.21.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

VOCABULARY = 576  # that of mini-gpt-oss
CONTEXT = 1024
TABLE = np.random.default_rng(7).normal(0, 4, (VOCABULARY, VOCABULARY))


def distribution(last: int, temperature: float = 1.0) -> Any:
    """[V] log-probs of the token that follows `last`."""
    logits = TABLE[last] / temperature
    return logits - np.log(np.exp(logits).sum())


@dataclass
class Settings:
    """What the fake is and does; tests change it as they go."""

    kind: str = "vllm"
    processed: bool = True
    max_logprobs: int = VOCABULARY
    vocabulary: int = VOCABULARY
    """As vLLM tells it where all log-probs are asked for."""
    key: str = ""
    started: float = 1000.0
    version: str = "0.32.0"
    weight_version: str = "default"
    checksum: str = ""
    top_k: int = 0
    """Its own, where a request names none."""
    routing: str = ""
    """`real`, or `zeros`."""
    spoil: Callable[[str, Any], Any] = field(default=lambda _path, body: body)
    """Changes an answer before it is sent."""
    raw: Callable[[Any, str], bool] = field(default=lambda _handler, _path: False)
    """Answers by itself: True where it did."""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """(method, path, body)"""


def answer(settings: Settings, path: str, body: Any) -> tuple[int, Any]:
    """Status and body of one request."""
    card = {"id": "mini", "root": "/models/mini-gpt-oss", "max_model_len": CONTEXT}
    if path == "/v1/models":
        return 200, {"data": [card | {"owned_by": settings.kind}]}
    if path == "/metrics":
        return 200, f"# HELP x\nprocess_start_time_seconds {settings.started}\n"
    if path in ("/weight_checker", "/weights_checker") and settings.checksum:
        return 200, {"checksums": {"lm_head.weight": settings.checksum}}
    if settings.kind == "vllm":
        if path == "/version":
            return 200, {"version": settings.version}
        if path == "/v1/completions":
            return _complete(settings, body)
    elif path in ("/server_info", "/model_info"):
        return 200, {
            "version": settings.version, "startup_time": settings.started, "api_key": "sk-server",
            "internal_states": [], "context_length": CONTEXT, "dtype": "float32",
            "model_path": "/models/mini-gpt-oss", "weight_version": settings.weight_version,
            "enable_return_routed_experts": bool(settings.routing),
        }  # fmt: skip
    elif path == "/generate":
        return _generate(settings, body)
    return 404, {"detail": "Not Found"}


def _draw(ids: list[int], temperature: float, count: int, seed: int, top_k: int = 0) -> list[int]:
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        p = np.exp(distribution(found[-1] if found else ids[-1], temperature))
        if top_k:
            p[np.argsort(-p)[top_k:]] = 0
        found.append(int(generator.choice(VOCABULARY, p=p / p.sum())))
    return found


def _steps(ids: list[int], drawn: list[int], temperature: float) -> list[Any]:
    """Distributions behind each drawn token."""
    return [distribution(last, temperature) for last in [ids[-1], *drawn[:-1]]]


def _experts(settings: Settings, tokens: int) -> Any:
    """[n, 4, 2] as mini-gpt-oss chooses; token i takes i, i + 1, … of 8."""
    if settings.routing == "zeros":
        return np.zeros((tokens, 4, 2), np.int32)
    return (np.arange(tokens)[:, None, None] + np.arange(8).reshape(1, 4, 2)) % 8


def _complete(settings: Settings, body: Any) -> tuple[int, Any]:
    ids, top = body["prompt"], body.get("prompt_logprobs")
    for count in (top, body.get("logprobs")):
        count = settings.vocabulary if count == -1 else count
        if count is not None and count > settings.max_logprobs:
            said = (
                f"Requested prompt logprobs of {count}, which is greater than max allowed: "
                f"{settings.max_logprobs}"
            )
            return 400, {"error": {"message": said, "code": 400}}
    temperature = body.get("temperature", 1.0)
    top_k = body.get("top_k", settings.top_k)
    drawn = _draw(ids, temperature, body["max_tokens"], body.get("seed", 0), top_k)
    space = temperature if settings.processed else 1.0
    steps = _steps(ids, drawn, space)
    choice: dict[str, Any] = {
        "index": 0, "text": "…", "finish_reason": "length", "token_ids": drawn,
        "prompt_token_ids": ids, "logprobs": None, "prompt_logprobs": None, "routed_experts": None,
    }  # fmt: skip
    if body.get("logprobs") is not None:
        shown = max(body["logprobs"], 1)
        choice["logprobs"] = {
            "tokens": [f"token_id:{token}" for token in drawn],
            "token_logprobs": [float(s[t]) for s, t in zip(steps, drawn, strict=True)],
            "top_logprobs": [
                {f"token_id:{i}": float(s[i]) for i in {*np.argsort(-s)[:shown].tolist(), t}}
                for s, t in zip(steps, drawn, strict=True)
            ],
        }
    if top is not None:
        choice["prompt_logprobs"] = [None] + [
            {
                str(i): {"logprob": float(s[i]), "rank": 1, "decoded_token": "x"}
                for i in {*np.argsort(-s)[:top].tolist(), token}
            }
            for s, token in zip(map(distribution, ids[:-1]), ids[1:], strict=True)
        ]
        if settings.routing:
            stream = io.BytesIO()
            np.save(stream, _experts(settings, len(ids)).astype(np.uint8))
            choice["routed_experts"] = base64.b64encode(stream.getvalue()).decode()
    return 200, {"choices": [choice], "usage": {}, "system_fingerprint": "vllm-0.32.0-tp1"}


def _generate(settings: Settings, body: Any) -> tuple[int, Any]:
    ids, top, asked = body["input_ids"], body["top_logprobs_num"], body["sampling_params"]
    temperature = asked["temperature"]
    drawn = _draw(ids, temperature, asked["max_new_tokens"], asked.get("sampling_seed", 0))
    steps = _steps(ids, drawn, temperature if settings.processed else 1.0)

    def listed(s: Any) -> list[list[Any]]:
        return [[float(s[i]), int(i), None] for i in np.argsort(-s)[:top]]

    meta: dict[str, Any] = {
        "finish_reason": {"type": "length", "length": len(drawn)},
        "weight_version": settings.weight_version,
        "cached_tokens": 0,
        "output_token_logprobs": [
            [float(s[t]), t, None] for s, t in zip(steps, drawn, strict=True)
        ],
        "output_top_logprobs": [listed(s) for s in steps],
    }
    if body.get("logprob_start_len") == 0:
        inputs = list(zip(map(distribution, ids[:-1]), ids[1:], strict=True))
        meta["input_token_logprobs"] = [[None, ids[0], None]] + [
            [float(s[t]), t if t < VOCABULARY - 1 else 0, None] for s, t in inputs
        ]
        meta["input_top_logprobs"] = [None] + [listed(s) for s, _ in inputs]
    if body["return_routed_experts"]:
        raw = _experts(settings, len(ids)).astype("<i4").tobytes()
        meta["routed_experts"] = base64.b64encode(raw).decode()
    return 200, {"text": "…", "output_ids": drawn, "prompt_token_ids": ids, "meta_info": meta}


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The fake's URL; it ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do("GET", None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._do("POST", json.loads(self.rfile.read(length)))

        def _do(self, method: str, body: Any) -> None:
            path = self.path.partition("?")[0]
            settings.asked.append((method, path, body))
            if settings.raw(self, path):
                return
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if settings.key and path.startswith("/v1") and key != settings.key:
                self.send(401, {"error": "Unauthorized"})
                return
            status, found = answer(settings, path, body)
            self.send(status, settings.spoil(path, found))

        def send(self, status: int, body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            data = body.encode() if isinstance(body, str) else data
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """The client hung up, as it should."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def drip(handler: Any, _path: str) -> bool:
    """A byte of an endless answer every tenth of a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)
