"""Problems and replies to token ids, through the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence

from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.schema import Prompt
from mismatch_lab.trainer.tasks.base import Problem

TOOL, USER = "tool", "user"
# Characters that no template and no answer has.
_ANSWER, _REPLY = "\u241f", "\u241e"


class TaskTokeniser(Tokeniser):
    """A checkpoint's tokenizer, for prompts and tool messages. No answer is ever re-tokenised."""

    def __init__(self, model: str, trust_remote_code: bool = False) -> None:
        super().__init__(model, trust_remote_code)
        before, after = self._around_reply()
        self._before_reply = self._encode_text(before)
        self._after_reply = self._encode_text(after)
        special = self._tokenizer.added_tokens_decoder
        first = special.get(self._before_reply[0]) if self._before_reply else None
        self._closes_answers = first is not None and first.special and self._closes_last_answer()
        """Whether what stands before a reply begins with the end of the answer."""

    def prompt_ids(self, problem: Problem) -> list[int]:
        """What the model reads before its first answer."""
        return self.encode_prompt(Prompt(id=problem.key, messages=list(problem.messages)))

    def reply_ids(self, text: str, last_id: int, truncated: bool) -> list[int]:
        """Ids between an answer that ended in `last_id` and the next one: its end where it ran out
        of room, the tool's message, and the start of the next turn.

        An answer that ended gets no second end, also where its own is another than the template's:
        GPT-OSS ends a turn with `<|return|>` or `<|call|>`, and writes `<|end|>` between turns.
        What a program prints is text: `<|end|>` in it ends nothing.
        """
        before = self._before_reply
        ended = not truncated and self._closes_answers
        before = before[1:] if before and (ended or before[0] == last_id) else before
        plain = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return [*before, *plain.input_ids, *self._after_reply]

    def answer_ids(self, text: str) -> list[int]:
        """A written answer with its end-of-turn token: what a model is taught, never a sample.

        Raises:
            ValueError: the tokenizer has no end-of-sequence token.
        """
        if self.end_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token")
        return [*self._encode_text(text), self.end_id]

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of a whole answer, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def transcript(self, token_ids: Sequence[int]) -> str:
        """Text of a whole episode with its special tokens, for people."""
        return str(self._tokenizer.decode(list(token_ids)))

    def _closes_last_answer(self) -> bool:
        """Some templates end no answer: there, what begins the next turn does (GLM-4)."""
        messages = [{"role": USER, "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        return bool(self._render(messages, answer=False).rpartition(_ANSWER)[2].strip())

    def _around_reply(self) -> tuple[str, str]:
        """What the chat template writes between an answer and a tool message, and behind it.

        The message has the role tool where the template takes that, else user.
        """
        if self._tokenizer.chat_template is None:
            return "\n\n", "\n"
        for role in (TOOL, USER):
            messages = [
                {"role": USER, "content": "?"},
                {"role": "assistant", "content": _ANSWER},
                {"role": role, "content": _REPLY},
            ]
            try:
                rendered = self._render(messages, answer=True)
            except Exception:  # a template raises whatever it likes for a role it does not know
                continue
            before, found, after = rendered.rpartition(_ANSWER)[2].partition(_REPLY)
            if found:
                return before, after
        return "\n\n", "\n"
