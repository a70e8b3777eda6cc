"""The engine's process: `python -m mismatch_lab.trainer.rollout_worker SPEC.json`.

One JSON request a line on standard input, one answer a line on standard output; it ends when its
standard input closes, so that no engine outlives its trainer.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mismatch_lab.engines.settings import HOOKABLE
from mismatch_lab.engines.vllm import VllmEngine
from mismatch_lab.engines.vllm_score import prompt_logp
from mismatch_lab.engines.worker import lines_of_parent, private_output
from mismatch_lab.errors import EngineError, MismatchLabError
from mismatch_lab.remedies import batch_invariant
from mismatch_lab.schema import SideSpec
from mismatch_lab.trainer.engine_recorder import Recorder
from mismatch_lab.trainer.engine_weights import transfer, verify
from mismatch_lab.trainer.rollout import Draw, EngineSpec, Record


class Server:
    """What the trainer can ask of the engine: the public methods, by name."""

    def __init__(self, spec: EngineSpec, plugin: str | None) -> None:
        args = {
            "logprobs_mode": f"{spec.logprob_space}_logprobs",
            "max_model_len": spec.context_length,
            "max_num_seqs": 128,
            "generation_config": "vllm",  # a draw says all of its sampling itself
            **HOOKABLE["vllm"],
            **spec.args,
        }
        side = SideSpec(
            side="infer",
            engine="vllm",
            model=spec.folder,
            dtype=spec.dtype,
            args=args,
            plugin=plugin,
        )
        if spec.batch_invariant:
            batch_invariant.turn_on()
        self.engine = VllmEngine(side)

    def sample(self, contexts: list[list[int]], room: list[int], draw: dict[str, Any]) -> Any:
        """See `Rollout.sample`."""
        asked = Draw(**{**draw, "record": Record(**draw["record"])})
        parameters = [_parameters(asked, row, n) for row, n in enumerate(room)]
        recorder = None
        if asked.record != Record():
            recorder = Recorder(self.engine.llm, self.engine.model, asked.record)
        with recorder.attached() if recorder else nullcontext():
            outputs = self.engine.complete(contexts, parameters)
        answers = []
        for output in outputs:
            ids = list(output.outputs[0].token_ids)
            logp = [
                float(step[token].logprob)
                for token, step in zip(ids, output.outputs[0].logprobs, strict=True)
            ]
            cut = output.outputs[0].finish_reason == "length"
            answer: dict[str, Any] = {"token_ids": ids, "logp_infer": logp, "truncated": cut}
            n = len(output.prompt_token_ids) + len(ids)
            if recorder is not None:
                answer |= recorder.of(output.request_id, n, len(ids))
            answers.append(answer)
        return answers

    def score(self, rows: list[list[int]], temperature: float) -> list[list[float]]:
        """See `Rollout.score`; NaN is no JSON, so firsts are left to the caller.

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

    def transfer(self, folder: str) -> dict[str, Any]:
        """See `Rollout.transfer`."""
        return asdict(transfer(self.engine.llm, folder))

    def verify(self, folder: str) -> dict[str, Any]:
        """See `Rollout.verify`."""
        return asdict(verify(self.engine.llm, folder))

    def flush(self) -> bool:
        """See `Rollout.flush`."""
        return bool(self.engine.llm.reset_prefix_cache())


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


def _parameters(draw: Draw, row: int, room: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=draw.temperature,
        top_p=draw.top_p,
        top_k=draw.top_k,
        min_p=draw.min_p,
        repetition_penalty=draw.repetition_penalty,
        seed=draw.row_seed(row) if draw.temperature > 0 else None,
        max_tokens=room,
        logprobs=0,
        detokenize=False,
    )


def _scoring(last: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
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


def main(spec_file: str) -> int:
    """Serve requests until standard input closes."""
    emit = private_output()
    given = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    try:
        requests = lines_of_parent()
        plugin = given.pop("plugin")
        server = Server(EngineSpec(**given), plugin)
        emit(event="started", version=server.engine.version)
        while True:
            request = json.loads(requests.get())
            result = getattr(server, request["do"])(**request["arguments"])
            emit(event="done", result=result)
    except MismatchLabError as error:
        traceback.print_exc()
        emit(event="error", kind=type(error).__name__, problem=error.problem, hint=error.hint)
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
        emit(event="error", kind="EngineError", problem=problem, hint="")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
