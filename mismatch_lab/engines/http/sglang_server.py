"""SGLang's own server: `/generate` with token ids in and out."""

from __future__ import annotations

from typing import Any

import numpy as np

from mismatch_lab.engines.http.client import SMALL_BYTES, Client
from mismatch_lab.engines.http.models import chosen_model
from mismatch_lab.engines.http.reading import Reader
from mismatch_lab.engines.http.server import Facts, Identity, Sampled, Scored, padded
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import OptionValue, Sampling

GENERATE = "/generate"
INFO = ("/server_info", "/get_server_info")
MODEL_INFO = ("/model_info", "/get_model_info")
"""New and old names."""
ENTRY_BYTES = 80
"""Of one log-prob in an answer, at most: value, id, null."""
NO_IDS = "SGLang returns them as output_ids and, in meta_info, with every log-prob."
SHOWN = (
    "dtype", "attention_backend", "sampling_backend", "disable_radix_cache", "kv_cache_dtype",
    "quantization", "disable_cuda_graph", "enable_deterministic_inference", "rl_on_policy_target",
    "enable_return_routed_experts", "chunked_prefill_size", "moe_runner_backend",
)  # fmt: skip
"""Of what the server shows; the rest, its keys among it, is not looked at."""


class SglangServer:
    """One server of SGLang."""

    def __init__(self, client: Client, facts: Facts, vocabulary: int) -> None:
        self.client = client
        self.facts = facts
        self.read = Reader(f"{client.root}{GENERATE}", vocabulary)

    @classmethod
    async def found(
        cls, client: Client, info: dict[str, Any], wanted: str, vocabulary: int
    ) -> SglangServer:
        """Ask what it serves. There is no limit to the log-probs of a position."""
        card = await chosen_model(client, wanted)
        lengths = (card.get("max_model_len"), info.get("context_length"))
        context = next((n for n in lengths if type(n) is int and n > 1), None)
        if context is None:
            raise EngineError(f"{client.root} says no context length.")
        said: dict[str, OptionValue] = {}
        for name in SHOWN:
            value = info.get(name)
            if isinstance(value, (bool, int, float)) or (isinstance(value, str) and value[:60]):
                said[name] = value[:60] if isinstance(value, str) else value
        root = str(info.get("model_path") or card.get("root") or "")
        version = str(info.get("version") or "of unknown version")
        facts = Facts("sglang", version, str(card["id"]), root, context, vocabulary, said)
        return cls(client, facts, vocabulary)

    async def identity(self) -> Identity:
        """See `Server.identity`."""
        info = await shown(self.client, INFO) or {}
        model = await shown(self.client, MODEL_INFO) or {}
        return {
            "version": str(info.get("version")),
            "started": str(info.get("startup_time")),
            "model": f"{model.get('model_path')} {model.get('load_format')}",
            "weights": str(model.get("weight_version")),
        }

    async def checksum(self) -> str:
        """See `Server.checksum`."""
        return await self.client.digest("/weights_checker", "SGLang does so from 0.5.20 on.")

    async def sample(
        self, ids: list[int], sampling: Sampling, seed: int, salt: str, top: int = 0
    ) -> Sampled:
        """See `Server.sample`."""
        parameters = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_tokens,
            "sampling_seed": seed,
        }
        body = {"top_logprobs_num": top}
        answer = await self._generate(ids, parameters, body, salt, sampling.max_tokens * (top + 2))
        meta = self.read.field(answer, "meta_info", dict)
        reason = meta.get("finish_reason")
        kind = reason.get("type") if isinstance(reason, dict) else reason
        if kind not in ("stop", "length"):
            raise self.read.wrong(
                "an answer that was broken off", "Were weights updated, or requests aborted?"
            )
        sampled = self.read.ids(answer.get("output_ids"), "output_ids")
        if not 1 <= len(sampled) <= sampling.max_tokens:
            raise self.read.wrong(f"{len(sampled)} tokens where {sampling.max_tokens} were asked")
        logp = self._own(meta.get("output_token_logprobs"), sampled, "output_token_logprobs")
        cached = meta.get("cached_tokens")
        return Sampled(
            sampled,
            logp,
            self._tops(meta.get("output_top_logprobs"), len(sampled)) if top else [],
            cached if type(cached) is int else None,
            _weights_of(meta),
        )

    async def score(self, ids: list[int], top: int, salt: str) -> Scored:
        """See `Server.score`: SGLang scores inputs at temperature 1, whatever is asked."""
        fills = len(ids) >= self.facts.context_length
        parameters = {"temperature": 1.0, "max_new_tokens": 0 if fills else 1}
        body = {"logprob_start_len": 0, "top_logprobs_num": top}
        answer = await self._generate(ids, parameters, body, salt, len(ids) * (top + 2))
        meta = self.read.field(answer, "meta_info", dict)
        entries = meta.get("input_token_logprobs")
        if not isinstance(entries, list) or len(entries) != len(ids) or not _opens(entries[0]):
            raise self.read.wrong(f"no input_token_logprobs of {len(ids)} tokens")
        logp = self._own(self._unclipped(entries[1:], ids[1:]), ids[1:], "input_token_logprobs")
        tops: list[dict[int, float]] = [{} for _ in ids]
        if top:
            listed = meta.get("input_top_logprobs")
            if not isinstance(listed, list) or len(listed) != len(ids):
                raise self.read.wrong(f"no input_top_logprobs of {len(ids)} tokens")
            tops = [{}, *self._tops(listed[1:], len(ids) - 1)]
        top_ids, top_logp = padded(tops, top)
        experts = self.read.experts(meta.get("routed_experts"), True, len(ids) - fills)
        whole = np.concatenate([np.full(1, np.nan, np.float32), logp])
        return Scored(whole, top_ids, top_logp, experts, _weights_of(meta))

    async def following(self, ids: list[int], top: int, salt: str) -> dict[int, float]:
        """See `Server.following`."""
        parameters = {"temperature": 1.0, "max_new_tokens": 1}
        answer = await self._generate(ids, parameters, {"top_logprobs_num": top}, salt, top + 2)
        meta = self.read.field(answer, "meta_info", dict)
        return self._tops(meta.get("output_top_logprobs"), 1)[0]

    async def _generate(
        self,
        ids: list[int],
        parameters: dict[str, Any],
        body: dict[str, Any],
        salt: str,
        entries: int,
    ) -> dict[str, Any]:
        """An answer whose prompt came back as it was sent."""
        asked = {
            "input_ids": ids,
            "sampling_params": parameters,
            "return_logprob": True,
            "return_prompt_token_ids": True,
            "return_routed_experts": self.facts.said.get("enable_return_routed_experts") is True,
            "cache_salt": salt,
            "stream": False,
            **body,
        }
        size = SMALL_BYTES + ENTRY_BYTES * (entries + 8 * len(ids))
        answer = await self.client.post(GENERATE, asked, size)
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise InputError(
                f"{self.read.where} refuses what it was asked (HTTP {answer.status}): {answer.text}"
            )
        found: dict[str, Any] = answer.body
        if found.get("output_ids") is None:
            raise InputError(f"{self.client.root} returns no token ids.", NO_IDS)
        if found.get("prompt_token_ids") is not None:  # older versions do not know the field
            self.read.same_ids(found["prompt_token_ids"], ids, "prompt_token_ids")
        return found

    def _unclipped(self, entries: list[Any], ids: list[int]) -> list[Any]:
        """With the vocabulary's last id where it belongs: SGLang (0.5.21) writes 0 for it among
        inputs, as it does for ids of images. The log-prob beside it is that of the real one.
        """
        last = self.read.vocabulary - 1
        return [
            [*entry[:1], last] if token == last and _pairs([entry]) and entry[1] == 0 else entry
            for entry, token in zip(entries, ids, strict=True)
        ]

    def _own(self, value: Any, ids: list[int], name: str) -> Any:
        """[n] log-probs of these tokens, from [[log-prob, id, text], …]."""
        entries = value if isinstance(value, list) else []
        pairs = _pairs(entries)
        if len(pairs) != len(entries) or len(entries) != len(ids):
            raise self.read.wrong(f"no {name} of {len(ids)} tokens")
        self.read.same_ids([pair[1] for pair in pairs], ids, name)
        return self.read.logps([pair[0] for pair in pairs], len(ids), name)

    def _tops(self, value: Any, count: int) -> list[dict[int, float]]:
        """[count] maps of id -> log-prob, from lists of [log-prob, id, text]."""
        if not isinstance(value, list) or len(value) != count:
            raise self.read.wrong(f"no top log-probs of {count} tokens")
        found = []
        for step in value:
            entries = step if isinstance(step, list) else [None]
            pairs = _pairs(entries)
            if len(pairs) != len(entries):
                raise self.read.wrong("top log-probs of another form")
            ids = self.read.ids([pair[1] for pair in pairs], "top log-probs")
            logp = [self.read.logp(_written(pair[0]), "top log-probs") for pair in pairs]
            found.append(dict(zip(ids, logp, strict=True)))
        return found


def _pairs(entries: list[Any]) -> list[list[Any]]:
    """[log-prob, id] of the entries that are of that form."""
    return [entry[:2] for entry in entries if isinstance(entry, list) and len(entry) >= 2]


def _opens(entry: Any) -> bool:
    """Whether this is a row's first entry: without a log-prob."""
    return isinstance(entry, list) and bool(entry) and entry[0] is None


def _written(value: Any) -> Any:
    """JSON has no minus infinity: null among the likeliest tokens is that."""
    return -9999.0 if value is None else value


def _weights_of(meta: dict[str, Any]) -> str:
    spans = meta.get("weight_versions")
    if isinstance(spans, list) and len(spans) > 1:
        return f"{len(spans)} versions in one answer"
    return str(meta.get("weight_version") or "")


async def shown(client: Client, paths: tuple[str, ...]) -> dict[str, Any] | None:
    """What the first of some GETs answers that is an object; None where none does."""
    for path in paths:
        answer = await client.get(path, 16 * SMALL_BYTES)
        if answer.status == 200 and isinstance(answer.body, dict):
            found: dict[str, Any] = answer.body
            return found
    return None
