"""The fake engine's tokeniser: a token is an ASCII byte."""

from __future__ import annotations

from types import SimpleNamespace

from mismatch_lab.engines.tokenise import Tokeniser

EOS = 0


class ByteTokeniser(Tokeniser):
    """ASCII bytes; the token with id 0 ends an answer."""

    def __init__(self) -> None:
        self._tokenizer = _Bytes()
        self.eos_ids = {EOS}


class _Bytes:
    """As much of a transformers tokenizer as Tokeniser asks for."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text.encode("ascii", "replace")))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("ascii")
