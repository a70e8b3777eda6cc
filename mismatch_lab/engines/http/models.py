"""What both kinds of server answer alike: their list of models, and when they were started."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from mismatch_lab.engines.http.client import SMALL_BYTES, Client
from mismatch_lab.errors import EngineError, InputError, few

MODELS = "/v1/models"
STARTED = re.compile(r"^process_start_time_seconds(?:\{[^}]*\})? ([0-9.e+]{1,40})$", re.MULTILINE)


async def model_cards(client: Client) -> list[dict[str, Any]]:
    """The models that a server lists.

    Raises:
        InputError: that is no list of models.
    """
    answer = await client.get(MODELS)
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    if not cards or not all(isinstance(card.get("id"), str) for card in cards):
        raise InputError(
            f"{client.root}{MODELS} lists no models (HTTP {answer.status}).",
            "Name a server of vLLM or SGLang, without a path.",
        )
    return cards


async def chosen_model(client: Client, wanted: str) -> dict[str, Any]:
    """The only model that is served, or the one of that name or from that place.

    Raises:
        InputError: there are several, and none of them is it.
    """
    cards = await model_cards(client)
    names = [str(card["id"]) for card in cards]
    if wanted in names:
        return cards[names.index(wanted)]
    if len(cards) == 1:
        return cards[0]
    like = [c for c in cards if last_part(str(c.get("root") or c["id"])) == last_part(wanted)]
    if len(like) != 1:
        raise InputError(
            f"{client.root} serves {len(cards)} models: {few(names, 5)}.",
            "Say which with --engine-arg served_model=NAME.",
        )
    return like[0]


def last_part(path: str) -> str:
    """Of a folder or a hub name."""
    return PurePath(path).name


async def started_at(client: Client) -> str:
    """When the server's process began, from its metrics; empty where it shows none."""
    try:
        answer = await client.text("/metrics", 16 * SMALL_BYTES)
    except EngineError:
        return ""
    found = STARTED.search(answer)
    return found[1] if found else ""
