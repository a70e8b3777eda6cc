"""Sampling settings that a server applies by itself, from a generation_config.json or its flags.

A request that says nothing of penalties, top-k or min-p gets the server's own, and raw log-probs do
not show them. Asked twice with one seed, once with everything said and once with one thing left
unsaid, the server draws the same tokens, unless it has a setting of its own there.
"""

from __future__ import annotations

from collections.abc import Sequence

from mismatch_lab.engines.http.server import Server
from mismatch_lab.engines.http.vllm_server import NEUTRAL, VllmServer
from mismatch_lab.schema import Sampling

UNSAID = ("repetition_penalty", "presence_penalty", "frequency_penalty", "top_k", "min_p")
"""What the run's own requests leave to the server."""
WARM = Sampling(temperature=2.0, max_tokens=32, seed=1)
"""Warm, so that unlikely tokens come up, which truncation would take away."""
SHARE = 0.02
"""Of tokens that differ, from which on a setting is there; below it a server that batches draws
near-ties otherwise."""


async def inherited(server: Server, prompts: Sequence[list[int]], salt: str) -> dict[str, float]:
    """Setting -> share of tokens that it changes. Empty where it has none, or does not repeat
    itself under a seed; SGLang's own endpoint takes none from a checkpoint.
    """
    if not isinstance(server, VllmServer):
        return {}
    said = {name: NEUTRAL[name] for name in UNSAID}

    async def drawn(settings: dict[str, float]) -> list[list[int]]:
        found = [await server.sample(ids, WARM, 1, salt, extra=settings) for ids in prompts]
        return [answer.token_ids for answer in found]

    plain = await drawn(said)
    if _apart(plain, await drawn({})) < SHARE or _apart(plain, await drawn(said)) >= SHARE:
        return {}
    found = {}
    for name in UNSAID:
        share = _apart(plain, await drawn({n: v for n, v in said.items() if n != name}))
        if share >= SHARE:
            found[name] = share
    return found


def _apart(a: list[list[int]], b: list[list[int]]) -> float:
    """Share of places at which answers differ."""
    places = sum(max(len(one), len(other)) for one, other in zip(a, b, strict=True))
    same = sum(
        x == y for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=False)
    )
    return 1 - same / max(places, 1)
