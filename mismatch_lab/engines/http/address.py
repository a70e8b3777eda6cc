"""Addresses of servers and the key that goes with them. Light: checked before anything starts."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mismatch_lab.errors import InputError

KEY = "MISMATCH_LAB_API_KEY"
"""Environment variable with the servers' API key: the only place where one is looked for."""

QUOTED = 200
"""Characters of a server's own words that an error repeats."""


def api_key() -> str:
    """The key of the environment; empty where there is none.

    Raises:
        InputError: it holds what no header can.
    """
    key = os.environ.get(KEY, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise InputError(f"The key in {KEY} has characters that no HTTP header can hold.")
    return key


def checked_url(url: str, option: str = "--engine-url", key_in: str = KEY) -> str:
    """The root of a server, as `http://HOST:PORT`; a trailing `/v1` is taken off.

    Args:
        url: as given.
        option: what it was given by, for errors.
        key_in: environment variable for the key.

    Raises:
        InputError: no such URL, or one that carries more than an address.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        raise InputError(f"A {option} is no URL.", "Write http://HOST:PORT.") from None
    if "@" in parts.netloc:
        raise InputError(
            f"{option} of {parts.hostname} holds a user or a password, which would stand in files.",
            f"Put an API key into the environment variable {key_in}.",
        )
    if not right or parts.query or parts.fragment:
        raise InputError(f"{option} {url!r} is no server's.", "Write http://HOST:PORT.")
    root = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return root.removesuffix("/v1")


def checked_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The roots of all servers.

    Raises:
        InputError: one is no URL, or stands there twice.
    """
    roots = tuple(checked_url(url) for url in urls)
    twice = {root for root in roots if roots.count(root) > 1}
    if twice:
        raise InputError(f"--engine-url {min(twice)} is given twice.")
    return roots


def quoted(text: str, key: str) -> str:
    """What a server said, fit to be shown: short, printable, and never with the key in it."""
    if key:
        text = text.replace(key, "…")
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * QUOTED])
    words = " ".join(shown.split())
    return words if len(words) <= QUOTED else f"{words[:QUOTED]}…"
