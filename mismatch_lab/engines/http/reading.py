"""Take numbers out of a server's answer: each is checked before anything is made of it."""

from __future__ import annotations

import base64
import binascii
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import EngineError

Float32 = NDArray[np.float32]

NO_MASS = -9999.0
"""How vLLM writes minus infinity in JSON."""
LARGEST = 1e6
"""No log-prob is further from 0."""
ABOVE_ZERO = 1e-3
"""Rounding may put a log-prob so far above 0."""
LOGITS = "Start vLLM with log-probs, not logits (--logprobs-mode)."
ASK_AGAIN = "Is it a server of vLLM or SGLang, and of a version that this one knows?"

ANOTHER_MODEL = "MODEL has no such token: does the server serve another model?"
OTHER_IDS = (
    "Does something between tokenise again, or add tokens? Or does the server serve another model "
    "than MODEL?"
)


class Reader:
    """Reads the answers of one server; every error names it."""

    def __init__(self, where: str, vocabulary: int) -> None:
        self.where = where
        self.vocabulary = vocabulary
        """Ids from here on are none."""

    def wrong(self, what: str, hint: str = ASK_AGAIN) -> EngineError:
        """An answer that is not what was asked for."""
        return EngineError(f"{self.where} answers with {what}.", hint)

    def field(self, body: Any, name: str, kind: type) -> Any:
        """A field of an object, of that type."""
        value = body.get(name) if isinstance(body, dict) else None
        if not isinstance(value, kind):
            found = "no" if value is None else f"{type(value).__name__} as"
            raise self.wrong(f"{found} {name}")
        return value

    def only(self, body: Any, name: str) -> dict[str, Any]:
        """The only entry of a list of objects."""
        entries = self.field(body, name, list)
        if len(entries) != 1 or not isinstance(entries[0], dict):
            raise self.wrong(f"{len(entries)} {name} in place of one")
        found: dict[str, Any] = entries[0]
        return found

    def ids(self, value: Any, name: str) -> list[int]:
        """A list of token ids."""
        if not isinstance(value, list):
            raise self.wrong(f"no {name}")
        for token in value:
            if type(token) is not int or not 0 <= token < self.vocabulary:
                beyond = type(token) is int and token >= self.vocabulary
                hint = ANOTHER_MODEL if beyond else ASK_AGAIN
                raise self.wrong(f"{_shown(token)} as a token id ({name})", hint)
        return value

    def same_ids(self, value: Any, own: list[int], name: str) -> None:
        """Raise unless these are the token ids that they should be."""
        found = self.ids(value, name)
        if found == own:
            return
        if len(found) != len(own):
            what = f"{len(found)} token ids where {len(own)} belong ({name})"
        else:
            at = next(i for i, (a, b) in enumerate(zip(found, own, strict=True)) if a != b)
            what = f"other token ids ({name}: {found[at]} for {own[at]} at place {at})"
        raise self.wrong(what, OTHER_IDS)

    def logp(self, value: Any, name: str) -> float:
        """One log-prob; minus infinity where the server says so."""
        number = math.nan
        if type(value) in (int, float) and abs(value) < LARGEST:
            number = float(value)
        if math.isnan(number):
            raise self.wrong(f"{_shown(value)} as a log-prob ({name})")
        if number > ABOVE_ZERO:
            raise self.wrong(f"{number:.4g} as a log-prob ({name}): above 0", LOGITS)
        return -math.inf if number <= NO_MASS else number

    def logps(self, value: Any, count: int, name: str) -> Float32:
        """[count] log-probs."""
        if not isinstance(value, list) or len(value) != count:
            found = f"{len(value)} log-probs" if isinstance(value, list) else "no log-probs"
            raise self.wrong(f"{found} for {count} tokens ({name})")
        return np.array([self.logp(one, name) for one in value], np.float32)

    def experts(self, value: Any, raw: bool, tokens: int) -> NDArray[np.int64] | None:
        """[tokens, …] choices of experts, from base64; None where there are none.

        Args:
            value: as it came; None where the server returns no routing.
            raw: int32 without a header (SGLang), and not a .npy (vLLM).
            tokens: that have been run.
        """
        if value is None:
            return None
        try:
            data = base64.b64decode(value, validate=True)
            if raw:
                return np.frombuffer(data, "<i4").astype(np.int64).reshape(tokens, -1)
            found = np.load(io.BytesIO(data), allow_pickle=False)
        except (binascii.Error, ValueError, TypeError, EOFError, OSError, MemoryError):
            raise self.wrong("routed experts that cannot be read") from None
        if found.ndim != 3 or found.dtype.kind not in "iu" or len(found) < tokens:
            raise self.wrong(f"routed experts of shape {found.shape} for {tokens} tokens")
        return np.asarray(found[:tokens], np.int64)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value) if isinstance(value, (int, float, str, bool)) else type(value).__name__
    short = len(text) <= 40 and text.isprintable()
    return text if short else f"a {type(value).__name__} of {len(text)} characters"
