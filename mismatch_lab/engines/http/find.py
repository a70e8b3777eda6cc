"""Find out what a server is by asking: its kind, and whether its log-probs are processed."""

from __future__ import annotations

from typing import Literal

from mismatch_lab.engines.http.client import Client
from mismatch_lab.engines.http.server import Server
from mismatch_lab.engines.http.sglang_server import INFO, SglangServer, shown
from mismatch_lab.engines.http.vllm_server import VllmServer
from mismatch_lab.errors import InputError
from mismatch_lab.schema import Sampling

COOL = 0.5
"""A temperature at which processed log-probs lie twice as far apart as at 1."""
TOP = 5
LEAST_SPREAD = 0.25
"""Nats between the likeliest and the least likely of these, from which on that shows in bf16."""

Space = Literal["raw", "processed", "unknown"]


async def find_server(client: Client, wanted: str, vocabulary: int) -> Server:
    """The server behind a client.

    Raises:
        InputError: neither vLLM nor SGLang answers there.
    """
    version = await client.get("/version")
    body = version.body if version.status == 200 and isinstance(version.body, dict) else {}
    info = await shown(client, INFO)
    if isinstance(body.get("version"), str) and not (info and "internal_states" in info):
        return await VllmServer.found(client, str(body["version"])[:60], wanted, vocabulary)
    if info is not None and isinstance(info.get("version"), str):
        return await SglangServer.found(client, info, wanted, vocabulary)
    raise InputError(
        f"{client.root} is no server of vLLM or SGLang: it has neither /version nor /server_info "
        f"(HTTP {version.status}).",
        "Name the server itself: --engine-url http://HOST:PORT.",
    )


async def logprob_space(server: Server, prompts: list[list[int]], salt: str) -> Space:
    """Whether returned log-probs are those that were sampled from.

    The server is asked for one token at temperature 1 and at 0.5: the differences between the
    likeliest tokens double where the temperature divides, and stay where it does not.
    """
    top = min(TOP, server.facts.top_logprobs)
    for ids in prompts if top > 1 else ():
        spreads = []
        for temperature in (1.0, COOL):
            sampling = Sampling(temperature=temperature, max_tokens=1)
            found = await server.sample(ids, sampling, 0, salt, top)
            best = sorted(found.top[0].values(), reverse=True)[:top]
            spreads.append(best[0] - best[-1])
        warm, cool = spreads
        if LEAST_SPREAD <= warm < float("inf"):
            return "processed" if cool > 1.5 * warm else "raw"
    return "unknown"
