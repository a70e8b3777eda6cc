"""The engine's process: `python -m mismatch_lab.trainer.rollout_worker`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mismatch_lab.engines.settings import HOOKABLE
from mismatch_lab.engines.vllm import VllmEngine
from mismatch_lab.engines.vllm_score import prompt_logp
from mismatch_lab.errors import EngineError
from mismatch_lab.faults import load_fault
from mismatch_lab.processes.child import parent_channel, serve, told
from mismatch_lab.remedies import load_fixes
from mismatch_lab.schema import SideSpec
from mismatch_lab.trainer import rollout
from mismatch_lab.trainer.engine_recorder import Recorder
from mismatch_lab.trainer.engine_weights import transfer, verify
from mismatch_lab.trainer.rollout import Answer, EngineSpec, Record, SamplingParams


class ChangedEngine(VllmEngine):
    """vLLM with a run's fault in its model, and then the fixes that mend it."""

    def __init__(self, side: SideSpec, spec: EngineSpec) -> None:
        self._fixes = load_fixes(spec.fixes)
        self._fault = spec.fault
        self._fixes.start_engine()
        super().__init__(side)

    def _on_weights_loaded(self, model: Any) -> None:
        if self._fault is not None:
            name, severity = self._fault
            fault = load_fault(name)
            assert fault.plant is not None
            fault.plant(model, fault.severities[severity])  # type: ignore[index]
        self._fixes.change_engine(model)
        super()._on_weights_loaded(model)


class Server:
    """The engine, and its answers to what a trainer asks."""

    def __init__(self, spec: EngineSpec) -> None:
        args = {
            "logprobs_mode": f"{spec.logprob_space}_logprobs",
            "max_model_len": spec.context_length,
            "max_num_seqs": 128,
            "generation_config": "vllm",  # a request says all of its sampling itself
            **HOOKABLE["vllm"],
            **spec.args,
        }
        side = SideSpec(
            side="infer",
            engine="vllm",
            model=spec.folder,
            dtype=spec.dtype,
            args=args,
        )
        self.engine = ChangedEngine(side, spec)

    def answer(self, request: rollout.Request) -> object:
        match request:
            case rollout.Sample(contexts, max_new_tokens, sampling):
                return rollout.Answers(self._sample(contexts, max_new_tokens, sampling))
            case rollout.Score(rows, temperature):
                return rollout.Scores(self._score(rows, temperature))
            case rollout.TakeWeights(folder):
                return transfer(self.engine.llm, str(folder))
            case rollout.VerifyWeights(folder):
                return verify(self.engine.llm, str(folder))
            case rollout.Flush():
                return bool(self.engine.llm.reset_prefix_cache())

    def _sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        parameters = [_parameters(sampling, row, n) for row, n in enumerate(max_new_tokens)]
        recorder = None
        if sampling.record != Record():
            recorder = Recorder(self.engine.llm, self.engine.model, sampling.record)
        with recorder.attached() if recorder else nullcontext():
            outputs = self.engine.complete(contexts, parameters)
        return [_answer(output, recorder) for output in outputs]

    def _score(self, rows: list[list[int]], temperature: float) -> list[list[float]]:
        """Of all tokens but the firsts.

        A row's last token is asked for where the engine samples, as vLLM always does at the end of
        a prompt: so a row may fill the context. A larger `max_model_len` would be no way out: in
        vLLM 0.32 the rotary factors of LongRoPE (Phi-3) and Llama 4's attention depend on it.

        Raises:
            EngineError: a row of fewer than two tokens.
        """
        if min(map(len, rows)) < 2:
            raise EngineError("A row of one token has no log-prob to ask for.")
        with logits_divided(self.engine.llm, temperature):
            outputs = self.engine.complete(
                [row[:-1] for row in rows], [_scoring(row[-1]) for row in rows]
            )
        return [_row_logp(output, row) for output, row in zip(outputs, rows, strict=True)]


@contextmanager
def logits_divided(llm: Any, temperature: float) -> Iterator[None]:
    """vLLM scores prompts at temperature 1 whatever is asked (vllm #37082): divide in workers."""
    if temperature == 1.0:
        yield
        return
    llm.collective_rpc(_divide, args=(temperature,))
    try:
        yield
    finally:
        llm.collective_rpc(_divide_no_more)


def _divide(worker: Any, temperature: float) -> None:
    model = worker.get_model()
    original = model.compute_logits

    def divided(*args: Any, **kwargs: Any) -> Any:
        logits = original(*args, **kwargs)
        # In float32, as vLLM's sampler does it: bfloat16 quotients would be a mismatch of ours.
        return None if logits is None else logits.float() / temperature

    model.compute_logits = divided


def _divide_no_more(worker: Any) -> None:
    del worker.get_model().compute_logits  # the class's own shows again


def _answer(output: Any, recorder: Recorder | None) -> Answer:
    found = output.outputs[0]
    ids = list(found.token_ids)
    logp = [float(step[token].logprob) for token, step in zip(ids, found.logprobs, strict=True)]
    recorded = {}
    if recorder is not None:
        n_tokens = len(output.prompt_token_ids) + len(ids)
        recorded = recorder.of(output.request_id, n_tokens, len(ids))
    return Answer(ids, logp, found.finish_reason == "length", **recorded)


def _parameters(sampling: SamplingParams, row: int, max_new_tokens: int) -> Any:
    from vllm import SamplingParams as Parameters

    return Parameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.row_seed(row) if sampling.temperature > 0 else None,
        max_tokens=max_new_tokens,
        logprobs=0,
        detokenize=False,
    )


def _scoring(last: int) -> Any:
    from vllm import SamplingParams as Parameters

    return Parameters(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        logprob_token_ids=[last],
        detokenize=False,
    )


def _row_logp(output: Any, row: list[int]) -> list[float]:
    """Of all tokens of a row but the first."""
    prompt = prompt_logp(output, row[:-1])[1:].tolist()
    return [*prompt, float(output.outputs[0].logprobs[0][row[-1]].logprob)]


def main() -> int:
    """Start the engine that is asked for first, then answer requests."""
    channel = parent_channel(rollout.REQUESTS)

    def work() -> None:
        server = Server(channel.receive())
        channel.send(server.engine.version)
        serve(channel, server.answer)

    return told(channel, work, lambda error: EngineError(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    sys.exit(main())
