"""Prompts to token ids, and follow-up turns to the ids that come between two answers."""

from __future__ import annotations

from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.schema import Prompt

_ANSWER = "\u241f"


class Tokeniser:
    """A checkpoint's tokenizer with its chat template (transformers)."""

    def __init__(self, model: str, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model, trust_remote_code=trust_remote_code
            )
        except Exception as error:
            raise InputError(f"No tokenizer can be loaded from {model}: {error}") from error
        eos = self._tokenizer.eos_token_id
        self.eos_ids: set[int] = set(eos if isinstance(eos, list) else [eos]) - {None}

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ready for the model to answer.

        Raises:
            InputError: no ids come out (an empty prompt).
        """
        if prompt.token_ids is not None:
            ids = list(prompt.token_ids)
        elif prompt.text is not None:
            ids = self._tokenizer(prompt.text).input_ids
        elif self._tokenizer.chat_template is None:
            contents = [message["content"] for message in prompt.messages or []]
            ids = self._tokenizer("\n\n".join(contents) + "\n").input_ids
        else:
            ids = self._encode_text(self._render(prompt.messages or [], answer=True))
        if not ids:
            raise InputError(f"Prompt {prompt.id!r} has no tokens.")
        return [int(token) for token in ids]

    def encode_follow_up(self, text: str, last_id: int) -> list[int]:
        """Ids that follow an answer ending in `last_id`: its end, the user's turn, the next start.

        Nothing of the answer is tokenised again.
        """
        if self._tokenizer.chat_template is None:
            return self._encode_text(f"\n\n{text}\n")
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": text},
        ]
        glue = self._encode_text(self._render(messages, answer=True).rpartition(_ANSWER)[2])
        return glue[1:] if glue and glue[0] == last_id else glue

    def text_of(self, token_ids: set[int]) -> dict[int, str]:
        """Text of each id, for people."""
        return {token: str(self._tokenizer.decode([token])) for token in sorted(token_ids)}

    def _encode_text(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _render(self, messages: list[dict[str, str]], answer: bool) -> str:
        rendered: Any = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer
        )
        return str(rendered)
