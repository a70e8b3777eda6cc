"""SGLang, in an interpreter of its own: its engine with its own processes, and hooks in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

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
from mismatch_lab.engines.failures import INSTEAD
from mismatch_lab.engines.interpreters import OWN
from mismatch_lab.engines.multi_turn import sample_conversations, to_warm
from mismatch_lab.engines.plugin import load_plugin
from mismatch_lab.engines.seeds import seed_of
from mismatch_lab.engines.sglang_agent import AgentSetting
from mismatch_lab.engines.sglang_cpu import NAME, on_cpu, prepare, refuse, stand_in_for_torchvision
from mismatch_lab.engines.sglang_options import (
    resolve_options,
    returns_original,
    set_environment,
    settings_in_force,
)
from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.errors import EngineError, InputError, MismatchLabError, MissingDependencyError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec

AFTER = "after the temperature, not renormalised over what top-p keeps"
BEFORE = "before the temperature (original_logprob)"

DTYPE_OF_CONFIG = ("GptOssForCausalLM",)
"""Architectures that take a dtype from config.json beside the engine's (0.5.17, 0.5.21)."""


class SglangEngine:
    """The stock engine: nothing is replaced, hooks read, and plugins change what they change."""

    logprob_space = "processed"

    def __init__(self, spec: SideSpec) -> None:
        self.spec = spec
        self.version = f"sglang {_installed_version()}"
        self.patched: list[str] = []
        set_environment(spec)
        stand_in_for_torchvision()  # transformers looks for it once, when it is imported
        cpu = on_cpu()
        config = load_config(spec.model, spec.trust_remote_code)
        if cpu:
            refuse(getattr(config, "architectures", None))
        check_dtype(getattr(config, "architectures", None), str(config.dtype), spec.dtype)
        prepare()
        arguments = resolve_options(spec, context_length(config), cpu)
        self.tokeniser = Tokeniser(spec.model, spec.trust_remote_code)
        self._vocabulary = int(config.get_text_config().vocab_size)
        if returns_original():
            self.logprob_space = "raw"
        if spec.plugin:
            load_plugin(spec.plugin)
            self.patched.append(f"plugin {spec.plugin}")
        if spec.resync:
            self.patched.append(f"loaded again: {', '.join(spec.resync)}")
        self._updated = spec.weight_update is None
        if spec.weight_update is not None:
            if spec.resync:
                raise InputError("A tensor cannot be loaded again (resync) before a weight update.")
            arguments["model_path"] = resolve_model_path(str(spec.weights_before))
        setting = AgentSetting(model=spec.model, plugin=spec.plugin, resync=spec.resync)
        self._process = _started(arguments, setting, spec.model)
        self.options = _said(arguments) | settings_in_force(self._process.engine)
        self.options |= {
            "original_logprob": returns_original(),
            "sampled_logprobs": BEFORE if returns_original() else AFTER,
        }
        if cpu:
            self.options["platform"] = NAME
        self.context_length = int(self.options["context_length"])

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """See `Engine.generate`; before the first sample the weight update, if one is asked for."""
        self._update(prompts, sampling)
        cached: list[int] = []
        capture = sample_conversations(
            prompts,
            self.tokeniser,
            self._sampler(sampling, cached),
            sampling.max_tokens,
            self.context_length,
            self.spec.model,
            progress,
        )
        if any(cached):
            self.options[CACHED_TOKENS] = " ".join(map(str, cached))
        return capture

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`; one sequence per forward, or all handed over at once."""
        replays = request.replay is not None or request.routing_replay is not None
        if replays or request.train_mode or request.alter:
            raise InputError(
                "SGLang cannot replay another side's inputs or routing, be altered for one job, "
                "nor run in training mode."
            )
        if not self._updated:
            raise InputError("An engine with a weight update to make samples before it scores.")
        check_lengths(np.diff(rows.row_offsets).tolist(), 0, self.context_length, self.spec.model)
        from mismatch_lab.engines.sglang_score import PrefillScorer

        self._without_cached_prefixes()
        scorer = PrefillScorer(
            self._process, self._vocabulary, self._parts_of_transformers(request)
        )
        found = assemble(rows, request, scorer.score(rows, request, progress))
        return replace(found, not_recorded=scorer.not_recorded)

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`; of what runs now, after an update too."""
        found: dict[str, Fingerprint] = self._process.ask("fingerprint")
        return found

    def close(self) -> None:
        """End SGLang's processes."""
        self._process.close()

    def _sampler(
        self, sampling: Sampling, cached: list[int]
    ) -> Callable[[list[list[int]]], list[tuple[list[int], list[float]]]]:
        def sample(batch: list[list[int]]) -> list[tuple[list[int], list[float]]]:
            first = len(cached)
            seeds = [seed_of(sampling.seed, first + i) for i in range(len(batch))]
            self._process.ask("seed", seed=seed_of(sampling.seed, first))
            answers = self._process.generate(
                batch, sampling_params=[_parameters(sampling, seed) for seed in seeds]
            )
            cached.extend(int(a["meta_info"].get("cached_tokens") or 0) for a in answers)
            return [_sampled(answer) for answer in answers]

        return sample

    def _update(self, prompts: list[Prompt], sampling: Sampling) -> None:
        """Warm the caches with the old weights, then update through SGLang's own path, once."""
        if self._updated or self.spec.weight_update is None:
            return
        from mismatch_lab.engines.sglang_update import update_weights

        self._updated = True
        self.generate(*to_warm(prompts, sampling), lambda *_: None)
        self.options.pop(CACHED_TOKENS, None)
        update_weights(self._process, self.spec.model, self.spec.weight_update)
        self.patched.append(
            f"started on {self.spec.weights_before}, updated by {self.spec.weight_update}"
        )

    def _without_cached_prefixes(self) -> None:
        """What is scored is run, not found in the cache: hooks and log-probs are of every token."""
        if not self.options.get("disable_radix_cache"):
            self._process.flush()

    def _parts_of_transformers(self, request: ScoreRequest) -> list[str] | None:
        """Names of the parts of transformers' model of this checkpoint; None where it has none."""
        if not request.tap_rows:
            return None
        from mismatch_lab.captures.structure import named_parts
        from mismatch_lab.engines.options import TorchOptions
        from mismatch_lab.engines.torch_model import DTYPES, empty_model

        try:
            return list(named_parts(empty_model(self.spec, TorchOptions(), DTYPES["float32"])))
        except Exception:  # whatever keeps transformers from making it: the trainer will say
            return None


def check_dtype(architectures: Sequence[str] | None, stored: str, wanted: str) -> None:
    """Refuse a dtype that SGLang would take for a part of the model alone.

    Args:
        architectures: of the checkpoint.
        stored: the dtype that its config.json names, as torch writes it.
        wanted: the run's.

    Raises:
        InputError: its kernels would meet two dtypes.
    """
    stored = stored.removeprefix("torch.")
    for name in set(architectures or ()) & set(DTYPE_OF_CONFIG):
        if stored != wanted:
            raise InputError(
                f"SGLang makes projections of {name} in the dtype of config.json ({stored}), "
                f"whatever dtype it is started with, and the rest in {wanted}.",
                f'Run a copy of the checkpoint whose config.json says "dtype": "{wanted}".',
            )


def _installed_version() -> str:
    try:
        return version("sglang")
    except PackageNotFoundError:
        raise MissingDependencyError(
            "SGLang is not installed in this interpreter.",
            OWN["sglang"].how,
        ) from None


def _started(arguments: dict[str, Any], setting: AgentSetting, model: str) -> Any:
    from mismatch_lab.engines.sglang_process import SglangProcess

    try:
        return SglangProcess(arguments, setting)
    except MismatchLabError:
        raise
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        said = f"{type(error).__name__}: {lines[-1] if lines else ''}"
        kind = InputError if isinstance(error, (ValueError, AssertionError)) else EngineError
        raise kind(f"SGLang could not start with {model}: {said}", INSTEAD["infer"]) from error


def _said(arguments: dict[str, Any]) -> dict[str, OptionValue]:
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, (bool, int, float, str)) and name != "model_path"
    }


def _parameters(sampling: Sampling, seed: int) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_tokens,
        "sampling_seed": seed,
    }


def _sampled(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
    """(ids, log-probs) of an answer.

    Raises:
        EngineError: its log-probs are of other tokens.
    """
    ids = [int(token) for token in answer["output_ids"]]
    steps = answer["meta_info"]["output_token_logprobs"]
    if [int(step[1]) for step in steps] != ids:
        raise EngineError("SGLang returned log-probs of other tokens than it sampled.")
    return ids, [float(step[0]) for step in steps]
