"""Engine `http`: one server or several of the same model, asked and never changed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.config import check_lengths, load_config
from mismatch_lab.engines.assemble import RowRecord, assemble
from mismatch_lab.engines.base import CACHED_TOKENS, Progress, ScoreRequest
from mismatch_lab.engines.http import gaps
from mismatch_lab.engines.http.address import api_key, checked_urls
from mismatch_lab.engines.http.client import Client
from mismatch_lab.engines.http.find import find_server, logprob_space
from mismatch_lab.engines.http.inherited import inherited
from mismatch_lab.engines.http.models import last_part
from mismatch_lab.engines.http.pool import share
from mismatch_lab.engines.http.server import Sampled, Scored, Server
from mismatch_lab.engines.http.tempered import own_logp, whole_logp
from mismatch_lab.engines.http.watch import Watch, check_alike
from mismatch_lab.engines.multi_turn import sample_conversations
from mismatch_lab.engines.options import DTYPES, HttpOptions, parse_options
from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec

Found = TypeVar("Found")

ROW_ENTRIES = 1_200_000
"""Log-probs in one answer, at most: some 100 bytes each."""
RUN_ENTRIES = 30_000_000
"""And in all answers of one scoring pass."""
SOME = 20
"""Likeliest tokens that are asked for where not all can be had and a temperature wants them."""
TRIED = ("The", "Once upon a time there was a", "1 2 3")
"""Prompts on which it is found out what log-probs a server returns."""


class HttpEngine:
    """Servers that run already. What cannot be seen through them is said, not guessed."""

    logprob_space = "raw"

    def __init__(self, spec: SideSpec) -> None:
        given = parse_options(HttpOptions, "http", spec.args)
        urls = checked_urls(spec.urls)
        if not urls:
            raise InputError("Engine http has no server.", "Add --engine-url http://HOST:PORT.")
        if spec.plugin or spec.resync or spec.weight_update:
            raise InputError(gaps.NOTHING_CHANGED)
        self.spec = spec
        self.concurrency = given.concurrency
        self.patched: list[str] = []
        config = load_config(spec.model, spec.trust_remote_code).get_text_config()
        self.vocabulary = int(config.vocab_size)
        self.tokeniser = Tokeniser(spec.model, spec.trust_remote_code)
        self._runner = asyncio.Runner()
        self._clients = [Client(url, api_key(), given.timeout_s) for url in urls]
        try:
            self._servers = self._run(self._find(given.served_model or last_part(spec.model)))
            self._watch = Watch(self._servers, self._run, given.checksum)
            self._look(urls)
        except BaseException:
            self.close()
            raise

    def _run(self, work: Coroutine[Any, Any, Found]) -> Found:
        return self._runner.run(work)

    async def _find(self, wanted: str) -> list[Server]:
        return [await find_server(client, wanted, self.vocabulary) for client in self._clients]

    def _look(self, urls: tuple[str, ...]) -> None:
        """What the servers are, for the manifest."""
        servers, salt = self._servers, secrets.token_hex(16)
        self._check_dtype()
        prompts = [self.tokeniser.encode_prompt(Prompt(id="", text=text)) for text in TRIED]
        check_alike(servers, prompts[1], self._run)
        facts = servers[0].facts
        spaces = [self._run(logprob_space(server, prompts, salt)) for server in servers]
        if len(set(spaces)) > 1:
            raise InputError("The servers do not return the same kind of log-probs.", gaps.APART)
        self.logprob_space = "processed" if spaces[0] == "processed" else "raw"
        self.version = f"{facts.kind} {facts.version}"
        self.context_length = min(server.facts.context_length for server in servers)
        self.top_logprobs = min(server.facts.top_logprobs for server in servers)
        self.options: dict[str, OptionValue] = {
            **facts.said,
            "urls": " ".join(urls),
            "server": facts.kind,
            "served_model": facts.model,
            "model_root": facts.root,
            "logprobs_mode": f"{spaces[0]}_logprobs" if spaces[0] != "unknown" else "unknown",
            "max_logprobs": self.top_logprobs,
            "max_model_len": self.context_length,
            "identity": self._watch.words,
        }
        own = self._run(inherited(servers[0], prompts, salt))
        self.options.update({f"inherits.{name}": share for name, share in own.items()})

    def _check_dtype(self) -> None:
        """Raise InputError for a server that computes in another precision than the run says: the
        noise floor would be that of another.
        """
        for server in self._servers:
            said = str(server.facts.said.get("dtype", "")).removeprefix("torch.")
            if said in DTYPES and said not in ("auto", self.spec.dtype):
                raise InputError(
                    f"{server.client.root} runs in {said}, and the run is in {self.spec.dtype}: "
                    "the noise floor would be wrong.",
                    f"Add --dtype {said}; --trainer-arg param_dtype=… gives the trainer another.",
                )

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """See `Engine.generate`; prefixes are shared within this call and with nobody else."""
        self._watch.unchanged()
        salt, cached, served = secrets.token_hex(16), list[int](), list[str]()

        def sample(batch: list[list[int]]) -> list[tuple[list[int], list[float]]]:
            before = len(served)

            async def one(server: Server, at: int, ids: list[int]) -> Sampled:
                seed = seed_of(sampling.seed, before + at)
                return await server.sample(ids, sampling, seed, salt)

            found = self._run(share(self._servers, batch, one, self.concurrency, progress))
            for number, answer in found:
                served.append(str(number))
                self._watch.saw(number, answer.weight_version)
                cached.append(answer.cached_tokens or 0)
            return [(answer.token_ids, answer.logp.tolist()) for _, answer in found]

        capture = sample_conversations(
            prompts,
            self.tokeniser,
            sample,
            sampling.max_tokens,
            self.context_length,
            self.spec.model,
            lambda *_: None,
        )
        self._watch.unchanged()
        if any(cached):
            self.options[CACHED_TOKENS] = " ".join(map(str, cached))
        if len(self._servers) > 1:
            self.options["served_by"] = " ".join(served)
        return capture

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`; what a server cannot record stands in `not_recorded`."""
        replays = request.replay is not None or request.routing_replay is not None
        if replays or request.train_mode or request.alter:
            raise InputError(gaps.NO_REPLAYS)
        check_lengths(np.diff(rows.row_offsets).tolist(), 0, self.context_length, self.spec.model)
        self._watch.unchanged()
        ids = [rows.token_ids[a:b].tolist() for a, b in rows.spans()]
        missing = gaps.always(request)
        elsewhere = gaps.served_from(str(self.options["model_root"]), self.spec.model)
        if elsewhere:
            missing["whether it serves MODEL"] = elsewhere
        if "dtype" not in self.options:
            missing["dtype"] = gaps.dtype_taken(self.spec.dtype)
        if not self._can_be_sent(len(request.probe_positions)):
            missing["distributions"] = gaps.no_distributions(self.top_logprobs, self.vocabulary)
            request = replace(request, probe_positions=request.probe_positions[:0])
        top, salt = self._top(rows, request), secrets.token_hex(16)

        async def one(server: Server, _: int, row: list[int]) -> Scored:
            return await server.score(row, top, salt)

        found = self._run(share(self._servers, ids, one, self.concurrency, progress))
        for number, answer in found:
            self._watch.saw(number, answer.weight_version)
        records = [
            self._record(rows, row, answer, request) for row, (_, answer) in enumerate(found)
        ]
        missing |= self._unclear(rows, records, request, [answer for _, answer in found])
        if request.routing and "routing" in missing:
            records = [replace(record, router_topk=None) for record in records]
        scored = assemble(rows, request, records)
        if len(request.probe_positions):
            scored = replace(scored, probe_logp=self._distributions(rows, request, salt))
        self._watch.unchanged()
        return replace(scored, not_recorded=missing)

    def _can_be_sent(self, distributions: int) -> bool:
        """Whether so many whole distributions can be had."""
        has_all = self.top_logprobs >= self.vocabulary
        return not distributions or (has_all and distributions * self.vocabulary <= RUN_ENTRIES)

    def _top(self, rows: Rows, request: ScoreRequest) -> int:
        """How many log-probs beside its own are asked for at each position of a row: none at
        temperature 1, else all, or as many as are worth their while.
        """
        if request.temperature == 1:
            return 0
        longest = int(np.diff(rows.row_offsets).max()) * self.vocabulary
        small = longest <= ROW_ENTRIES and rows.n_tokens * self.vocabulary <= RUN_ENTRIES
        whole = small and self.top_logprobs >= self.vocabulary
        return self.vocabulary if whole else min(self.top_logprobs, SOME)

    def _distributions(self, rows: Rows, request: ScoreRequest, salt: str) -> Float32:
        """[P, V] each from a request of its own: a row's would come with those of every token."""
        starts = rows.row_offsets[rows.row_ids()[request.probe_positions]]
        prefixes = [
            rows.token_ids[start:stop].tolist()
            for start, stop in zip(starts, request.probe_positions, strict=True)
        ]

        async def one(server: Server, _: int, ids: list[int]) -> dict[int, float]:
            return await server.following(ids, self.vocabulary, salt)

        shared = share(self._servers, prefixes, one, self.concurrency, lambda *_: None)
        steps = [step for _, step in self._run(shared)]
        for step in steps:
            if len(step) < self.vocabulary:
                raise EngineError(
                    f"A server returned {len(step)} log-probs of {self.vocabulary} tokens.",
                    "Is MODEL the model that it serves?",
                )
        return whole_logp(steps, request.temperature, self.vocabulary)

    def _record(self, rows: Rows, row: int, answer: Scored, request: ScoreRequest) -> RowRecord:
        start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
        ids = rows.token_ids[start:stop].tolist()
        logp = own_logp(answer, ids, request.temperature, self.vocabulary, self.spec.dtype)
        record = RowRecord(logp)
        if request.routing:
            record.router_topk = gaps.experts(answer.experts, len(ids), self._experts_per_token())
        return record

    def _experts_per_token(self) -> int:
        config = load_config(self.spec.model, self.spec.trust_remote_code).get_text_config()
        names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "experts_per_token")
        return next((int(v) for n in names if (v := getattr(config, n, None))), 0)

    def _unclear(
        self, rows: Rows, records: list[RowRecord], request: ScoreRequest, answers: list[Scored]
    ) -> dict[str, str]:
        """What these answers do not say, in words."""
        found: dict[str, str] = {}
        if request.routing and self._experts_per_token():
            why = gaps.no_routing([r.router_topk for r in records], answers)
            if why:
                found["routing"] = why
        logp = np.concatenate([record.logp for record in records])
        lost = int(np.isnan(logp[rows.sampled]).sum())
        if lost:
            found["log-probs at the temperature"] = gaps.not_at_temperature(
                lost, int(rows.sampled.sum()), request.temperature, self.top_logprobs
            )
        return found

    def fingerprint(self) -> dict[str, Fingerprint]:
        """None: a server shows no tensors."""
        return {}

    def close(self) -> None:
        """Give the connections back; the servers go on as they were."""

        async def close() -> None:
            for client in self._clients:
                await client.close()

        self._runner.run(close())
        self._runner.close()
