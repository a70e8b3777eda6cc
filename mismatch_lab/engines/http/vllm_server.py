"""vLLM's OpenAI server: `/v1/completions` with token ids in and out (0.10.2 or newer)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mismatch_lab.engines.http.client import SMALL_BYTES, Answer, Client
from mismatch_lab.engines.http.models import chosen_model, started_at
from mismatch_lab.engines.http.reading import Reader
from mismatch_lab.engines.http.server import Facts, Identity, Sampled, Scored, padded
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import OptionValue, Sampling

COMPLETIONS = "/v1/completions"
ENTRY_BYTES = 200
"""Of one log-prob in an answer, at most: id, value, rank, text."""
FAR_TOO_MANY = 1_000_000_000
"""Log-probs that no server returns: its refusal says how many it does."""
ALL = -1
"""Log-probs: those of the whole vocabulary."""
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""Of requests that score: nothing taken from the server's own defaults."""
NO_IDS = (
    "vLLM does so from 0.10.2 on (return_token_ids); an older one started with "
    "--return-tokens-as-token-ids returns the sampled ones only, which is not enough."
)
SHOWN = ("dtype", "logprobs_mode", "max_logprobs", "quantization", "enforce_eager")
"""Of a model's configuration, where the server shows it (VLLM_SERVER_DEV_MODE=1)."""


class VllmServer:
    """One server of vLLM."""

    def __init__(self, client: Client, facts: Facts, vocabulary: int) -> None:
        self.client = client
        self.facts = facts
        self.read = Reader(f"{client.root}{COMPLETIONS}", vocabulary)

    @classmethod
    async def found(cls, client: Client, version: str, wanted: str, vocabulary: int) -> VllmServer:
        """Ask what it serves and what it can."""
        card = await chosen_model(client, wanted)
        model, context = str(card["id"]), card.get("max_model_len")
        if type(context) is not int or context < 2:
            raise EngineError(f"{client.root}/v1/models names no max_model_len of {model}.")
        said = await _dev_settings(client)
        limit = await _top_logprobs(client, model, said)
        await _check_vocabulary(client, model, limit, vocabulary)
        facts = Facts(
            "vllm", version, model, str(card.get("root") or ""), context,
            min(limit, vocabulary), said,
        )  # fmt: skip
        return cls(client, facts, vocabulary)

    async def identity(self) -> Identity:
        """See `Server.identity`."""
        client = self.client
        card = await chosen_model(client, self.facts.model)
        found = {
            "version": str((await client.get("/version")).body),
            "model": f"{card['id']} {card.get('root')} {card.get('max_model_len')}",
        }
        started = await started_at(client)
        if started:
            found["started"] = started
        weights = await client.get("/weight_info")  # only with VLLM_SERVER_DEV_MODE=1
        if weights.status == 200 and isinstance(weights.body, dict):
            found["weights"] = str(sorted(weights.body.items()))[:1000]
        return found

    async def checksum(self) -> str:
        """See `Server.checksum`."""
        return await self.client.digest(
            "/weight_checker", "vLLM does so when it is started with VLLM_SERVER_DEV_MODE=1."
        )

    async def sample(
        self,
        ids: list[int],
        sampling: Sampling,
        seed: int,
        salt: str,
        top: int = 0,
        extra: Mapping[str, float] | None = None,
    ) -> Sampled:
        """See `Server.sample`. What the run does not set is left to the server, as its users do,
        but for `extra`.
        """
        body = {
            **(extra or {}),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            "logprobs": top,
        }
        choice, answer = await self._complete(ids, body, salt, sampling.max_tokens * (top + 2))
        if choice.get("finish_reason") not in ("stop", "length"):
            raise self.read.wrong(
                "an answer that was broken off", "Were weights updated, or requests aborted?"
            )
        sampled = self.read.ids(choice.get("token_ids"), "sampled tokens")
        if not 1 <= len(sampled) <= sampling.max_tokens:
            raise self.read.wrong(f"{len(sampled)} tokens where {sampling.max_tokens} were asked")
        found = self.read.field(choice, "logprobs", dict)
        logp = self.read.logps(found.get("token_logprobs"), len(sampled), "sampled tokens")
        named = found.get("tokens")
        if named != [f"token_id:{token}" for token in sampled]:
            raise self.read.wrong("log-probs of other tokens than it sampled")
        return Sampled(
            sampled,
            logp,
            self._tops(found.get("top_logprobs"), len(sampled)) if top else [],
            _cached(answer.body),
            str(answer.body.get("system_fingerprint") or ""),
        )

    async def score(self, ids: list[int], top: int, salt: str) -> Scored:
        """See `Server.score`. A row that fills the context is scored as far as it can be sent, its
        last token where the server would sample it.
        """
        fills = len(ids) >= self.facts.context_length
        prompt = ids[:-1] if fills else ids
        body: dict[str, Any] = {**NEUTRAL, "max_tokens": 1, "prompt_logprobs": top, "seed": 0}
        if fills:
            body |= {"logprobs": 1, "logprob_token_ids": [ids[-1]]}
        choice, answer = await self._complete(prompt, body, salt, len(ids) * (top + 2))
        steps = self._prompt_steps(choice.get("prompt_logprobs"), prompt)
        if fills:
            last = self._tops(self.read.field(choice, "logprobs", dict).get("top_logprobs"), 1)[0]
            if ids[-1] not in last:
                raise self.read.wrong("no log-prob of the last token of a row")
            steps.append({ids[-1]: last[ids[-1]]})
        own = [step[token] for step, token in zip(steps[1:], ids[1:], strict=True)]
        top_ids, top_logp = padded(steps, top)
        experts = self.read.experts(choice.get("routed_experts"), False, len(prompt))
        return Scored(
            np.array([np.nan, *own], np.float32),
            top_ids,
            top_logp,
            experts,
            str(answer.body.get("system_fingerprint") or ""),
        )

    async def following(self, ids: list[int], top: int, salt: str) -> dict[int, float]:
        """See `Server.following`."""
        body = {**NEUTRAL, "max_tokens": 1, "logprobs": top, "seed": 0}
        choice, _ = await self._complete(ids, body, salt, top + 2)
        found = self.read.field(choice, "logprobs", dict).get("top_logprobs")
        return self._tops(found, 1)[0]

    async def _complete(
        self, ids: list[int], body: dict[str, Any], salt: str, entries: int
    ) -> tuple[dict[str, Any], Answer]:
        """The only choice of a completion whose prompt came back as it was sent."""
        asked = {
            "model": self.facts.model,
            "prompt": ids,
            "n": 1,
            "stream": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "cache_salt": salt,
            **body,
        }
        answer = await self.client.post(
            COMPLETIONS, asked, SMALL_BYTES + ENTRY_BYTES * (entries + 8 * len(ids))
        )
        if answer.status != 200:
            raise InputError(
                f"{self.read.where} refuses what it was asked (HTTP {answer.status}): "
                f"{self.client.shown(message(answer))}"
            )
        choice = self.read.only(answer.body, "choices")
        if choice.get("token_ids") is None or choice.get("prompt_token_ids") is None:
            raise InputError(f"{self.client.root} returns no token ids.", NO_IDS)
        self.read.same_ids(choice["prompt_token_ids"], ids, "prompt_token_ids")
        return choice, answer

    def _tops(self, value: Any, count: int) -> list[dict[int, float]]:
        """[count] maps of id -> log-prob, written as `token_id:N`."""
        if not isinstance(value, list) or len(value) != count:
            raise self.read.wrong(f"no top log-probs of {count} tokens")
        return [self._step(step, "token_id:", "top log-probs") for step in value]

    def _prompt_steps(self, value: Any, ids: list[int]) -> list[dict[int, float]]:
        """[n] maps of id -> log-prob, the first empty; each holds the prompt's own token."""
        if not isinstance(value, list) or len(value) != len(ids) or value[0] is not None:
            raise self.read.wrong(f"no prompt_logprobs of {len(ids)} tokens")
        steps: list[dict[int, float]] = [{}]
        for token, step in zip(ids[1:], value[1:], strict=True):
            entries = step if isinstance(step, dict) else {}
            values = {
                name: one.get("logprob") if isinstance(one, dict) else None
                for name, one in entries.items()
            }
            steps.append(self._step(values, "", "prompt_logprobs"))
            if token not in steps[-1]:
                raise self.read.wrong(f"no log-prob of prompt token {token}")
        return steps

    def _step(self, step: Any, prefix: str, name: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for key, value in step.items() if isinstance(step, dict) else ():
            digits = key.removeprefix(prefix)
            if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
                raise self.read.wrong(f"a key that is no token id ({name})")
            self.read.ids([int(digits)], name)
            found[int(digits)] = self.read.logp(value, name)
        return found


def message(answer: Answer) -> str:
    """What the server said of a request that it refuses."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return said if isinstance(said, str) else answer.text


def _cached(body: dict[str, Any]) -> int | None:
    usage = body.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    found = details.get("cached_tokens") if isinstance(details, dict) else None
    return found if type(found) is int else None


async def _top_logprobs(client: Client, model: str, said: dict[str, OptionValue]) -> int:
    """How many log-probs a position may have: asked for far too many, the server says."""
    body = _prompt_logprobs(model, FAR_TOO_MANY)
    allowed = re.search(r"max allowed: (\d{1,9})\b", message(await client.post(COMPLETIONS, body)))
    if allowed:
        return int(allowed[1])
    stated = said.get("max_logprobs")
    return stated if isinstance(stated, int) and stated >= 0 else 0


async def _check_vocabulary(client: Client, model: str, limit: int, vocabulary: int) -> None:
    """Asked for the log-probs of its whole vocabulary, a server says how many that would be where
    it returns fewer; where it returns them, they are no more than its limit.

    Raises:
        InputError: MODEL has another vocabulary.
    """
    answer = await client.post(COMPLETIONS, _prompt_logprobs(model, ALL))
    would_be = re.search(r"logprobs of (\d{1,9})\b", message(answer))
    served = int(would_be[1]) if would_be else None
    if served is None and answer.status == 200 and 0 < limit < vocabulary:
        served = limit
    if served not in (None, vocabulary):
        raise InputError(
            f"{client.root} serves a model with a vocabulary of {served} tokens ({model}), and "
            f"MODEL has one of {vocabulary}.",
            "Name the checkpoint that is served there.",
        )


def _prompt_logprobs(model: str, count: int) -> dict[str, Any]:
    return {"model": model, "prompt": [0], "max_tokens": 1, "prompt_logprobs": count}


async def _dev_settings(client: Client) -> dict[str, OptionValue]:
    """Settings that a server in developer mode shows; none of any other."""
    answer = await client.get("/server_info?config_format=json", 4 * SMALL_BYTES)
    body = answer.body if answer.status == 200 and isinstance(answer.body, dict) else {}
    config = body.get("vllm_config")
    model = config.get("model_config") if isinstance(config, dict) else None
    found: dict[str, OptionValue] = {}
    for name in SHOWN:
        value = model.get(name) if isinstance(model, dict) else None
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 60):
            found[name] = value
    return found
