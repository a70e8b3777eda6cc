"""What vLLM decides while it samples: the experts of each token, the tokens left to the sampler.

vLLM returns neither (its `enable_return_routed_experts` needs a GPU), so both are read where they
are made. Every forward of the runner holds some tokens of several requests, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mismatch_lab.engines.vllm_routing import VllmRoutingTap
from mismatch_lab.errors import EngineError
from mismatch_lab.trainer.rollout import Record

Place = tuple[int, NDArray[np.int16]]
"""(first position, [m, L, K] choices)."""


class Recorder:
    """Records one request batch; use a new one for the next."""

    def __init__(self, llm: Any, model: Any, record: Record) -> None:
        self.record = record
        self.runner: Any = llm.collective_rpc(_runner_of)[0]
        self.routers = VllmRoutingTap(model).routers if record.routing else {}
        if record.routing and not self.routers:
            raise EngineError("routing-replay: the engine's model has no routers.")
        self._now: dict[str, Tensor] = {}
        self._places: dict[str, list[Place]] = {}
        self._support: dict[str, list[NDArray[np.bool_]]] = {}
        self._kept: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Wrapped inside the block, untouched after it."""
        with ExitStack() as stack:
            if self.record.routing:
                for name, router in self.routers.items():
                    stack.enter_context(_wrapped(router, "select_experts", self._choices(name)))
                stack.enter_context(_wrapped(self.runner, "execute_model", self._forward))
            if self.record.support:
                sampler = self.runner.sampler.topk_topp_sampler
                stack.enter_context(_wrapped(sampler, "forward", self._truncation))
                stack.enter_context(_wrapped(self.runner, "_sample", self._sampling))
            yield

    def of(self, request_id: str, n_tokens: int, n_sampled: int) -> dict[str, Any]:
        """What was recorded of a request: fields of `Answer`.

        Raises:
            EngineError: a sampled token has no record.
        """
        found: dict[str, Any] = {}
        if self.record.routing:
            found["routing"] = self._routing_of(request_id, n_tokens)
        if self.record.support:
            kept = self._support.get(request_id, [])
            if len(kept) != n_sampled:
                raise EngineError(f"{len(kept)} sampler masks for {n_sampled} sampled tokens.")
            found["support"] = np.stack(kept)
        return found

    def _routing_of(self, request_id: str, n_tokens: int) -> NDArray[np.int16]:
        places = self._places.get(request_id, [])
        if not places:
            raise EngineError("vLLM routed inside a kernel: its choices cannot be read.")
        laid = np.full((n_tokens, *places[0][1].shape[1:]), -1, np.int16)
        for start, choices in places:
            stop = min(start + len(choices), n_tokens)  # the scheduler may run ahead of the end
            laid[start:stop] = choices[: stop - start]
        return laid

    def _choices(self, name: str) -> Callable[..., Any]:
        def wrap(select: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            weights, ids = select(*args, **kwargs)
            self._now[name] = ids.detach().to(torch.int16).cpu()
            return weights, ids

        return wrap

    def _forward(self, execute: Callable[..., Any], scheduled: Any, *args: Any, **kw: Any) -> Any:
        self._now = {}
        result = execute(scheduled, *args, **kw)
        if self._now:
            chosen = torch.stack([self._now[name] for name in self.routers], dim=1).numpy()
            batch, first = self.runner.input_batch, 0
            for index, request in enumerate(batch.req_ids):
                n = scheduled.num_scheduled_tokens[request]
                start = int(batch.num_computed_tokens_cpu[index])
                place = (start, chosen[first : first + n].copy())
                self._places.setdefault(_external(request), []).append(place)
                first += n
        return result

    def _truncation(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sampled, log_probs = forward(*args, **kwargs)
        if log_probs is None:
            raise EngineError("sampler-mask needs processed log-probs.")
        self._kept = torch.isfinite(log_probs).cpu()
        return sampled, log_probs

    def _sampling(self, sample: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = sample(*args, **kwargs)
        assert self._kept is not None
        for row, request in enumerate(self.runner.input_batch.req_ids):
            self._support.setdefault(_external(request), []).append(self._kept[row].numpy())
        return result


def _runner_of(worker: Any) -> Any:
    return worker.model_runner


def _external(request: str) -> str:
    """vLLM adds a suffix of its own to the number of a request."""
    return request.partition("-")[0]


@contextmanager
def _wrapped(owner: Any, name: str, wrap: Callable[..., Any]) -> Iterator[None]:
    original, own = getattr(owner, name), vars(owner).get(name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrap(original, *args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
