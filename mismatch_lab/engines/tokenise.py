"""Prompts to token ids, and follow-up turns to the ids that come between two answers."""

from __future__ import annotations

from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.schema import Prompt

_ANSWER = "\u241f"
_ANSWERED = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]


class Tokeniser:
    """A checkpoint's tokenizer with its chat template (transformers)."""

    def __init__(
        self, model: str, trust_remote_code: bool = False, generation_config: str | None = None
    ) -> None:
        """Args:
        model: checkpoint.
        trust_remote_code: of the tokenizer.
        generation_config: folder whose generation_config.json holds instead of the checkpoint's.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model, trust_remote_code=trust_remote_code
            )
        except Exception as error:
            raise InputError(f"No tokenizer can be loaded from {model}: {error}") from error
        self.end_id: int | None = self._tokenizer.eos_token_id
        """The tokenizer's own end of a sequence."""
        ends = _ends_of_generation(generation_config or model, trust_remote_code)
        self.eos_ids: set[int] = ends if self.end_id is None else {self.end_id, *ends}
        """Where an answer ends: vLLM stops at the tokenizer's end and the generation config's."""

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
        messages = [*_ANSWERED, {"role": "user", "content": text}]
        glue = self._encode_text(self._render(messages, answer=True).rpartition(_ANSWER)[2])
        return self.behind_answer(glue, last_id, ended=last_id in self.eos_ids)

    def behind_answer(self, glue: list[int], last_id: int, ended: bool) -> list[int]:
        """What a template writes behind an answer, less the end that the answer has already.

        A template may write another end than the model's: GPT-OSS ends a turn with `<|return|>` or
        `<|call|>`, and its template writes `<|end|>` between turns.

        Args:
            glue: what the template writes.
            last_id: the answer's last token.
            ended: whether that ends the answer, and is not where it ran out of room.
        """
        written = bool(glue) and (glue[0] == last_id or (ended and self._closes(glue[0])))
        return glue[1:] if written else glue

    def _closes(self, token: int) -> bool:
        """Whether a token behind an answer is its end, and not the start of the next turn.

        Some templates end no answer (GLM-4): nothing is written behind a conversation's last one.
        """
        known = self._tokenizer.added_tokens_decoder.get(token)
        last = self._render(_ANSWERED, answer=False).rpartition(_ANSWER)[2]
        return known is not None and known.special and bool(last.strip())

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


def _ends_of_generation(model: str, trust_remote_code: bool) -> set[int]:
    """Token ids at which generation_config.json ends an answer; without one, config.json.

    As vLLM reads them, whatever else it takes from the checkpoint.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(model)
    except OSError:  # there is none
        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        except (OSError, ValueError):
            return set()
        found = GenerationConfig.from_model_config(config)
    ends = found.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
