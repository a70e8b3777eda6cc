"""Roll-outs by transformers in the trainer's process: for tests, and where there is no vLLM."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors
from mismatch_lab.engines.chunked_logp import log_softmax
from mismatch_lab.engines.torch_model import DTYPES, pick_device
from mismatch_lab.engines.whole_state import whole_state
from mismatch_lab.errors import InputError
from mismatch_lab.faults import load_fault
from mismatch_lab.findings.weights import compare_weights
from mismatch_lab.trainer.rollout import Answer, EngineSpec, Rollout, SamplingParams, Transfer

ROWS = 128
ALONE = Lock()
"""Several engines are asked in threads. What belongs to the whole process is used by one of them:
torch's random numbers, and whether modules are initialised, which transformers switches off and on
while it loads (of two that load at once, one leaves it off for good)."""


class HfRollout(Rollout):
    """A second copy of the model; log-probs are those of one forward over the finished rows."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.args:
            raise InputError(f"Engine hf has no option {next(iter(spec.args))!r}.")
        if spec.fixes:
            raise InputError(f"{spec.fixes[0]} needs vLLM as the engine.")
        if spec.logprob_space != "processed":
            raise InputError(f"Engine hf has no {spec.logprob_space} log-probs.", "Use vllm.")
        self.spec = spec
        self.device = pick_device("auto")
        self.restart(Path(spec.folder))

    def restart(self, folder: Path) -> None:
        """See `Rollout.restart`."""
        import transformers
        from transformers import GenerationConfig

        self.version = f"transformers {transformers.__version__}"
        self.model = self._load(folder).to(self.device)
        if self.spec.fault:
            fault = load_fault(self.spec.fault[0])
            assert fault.plant is not None
            fault.plant(self.model, fault.severities[self.spec.fault[1]])  # type: ignore[index]
        ends = self.model.generation_config.eos_token_id or self.model.config.eos_token_id
        self.eos_ids = ends if isinstance(ends, list) else [ends]
        # `generate` takes what a run leaves open from here: a checkpoint may ask for penalties or
        # for tokens never to be drawn, of which the trainer would know nothing.
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    def _load(self, folder: Path) -> Any:
        from transformers import AutoModelForCausalLM

        with ALONE:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[self.spec.dtype])
        return model.eval()

    def sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        """See `Rollout.sample`."""
        if sampling.record.routing or sampling.record.support:
            raise InputError("routing-replay and sampler-mask need vLLM as the engine.")
        answers: list[Answer] = []
        with (
            ALONE,
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
        ):
            for start in range(0, len(contexts), ROWS):
                torch.manual_seed(
                    sampling.row_seed(start)
                )  # one generator draws for all rows of it
                part = slice(start, start + ROWS)
                answers += self._sample(contexts[part], max_new_tokens[part], sampling)
        return answers

    @torch.no_grad()
    def _sample(
        self, contexts: list[list[int]], max_new_tokens: list[int], sampling: SamplingParams
    ) -> list[Answer]:
        from transformers import GenerationConfig

        width = max(map(len, contexts))
        ids = torch.tensor([[0] * (width - len(c)) + c for c in contexts], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=self.device
        )
        free = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p or None,
        }
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=sampling.temperature > 0,
            max_new_tokens=max(max_new_tokens),
            eos_token_id=self.eos_ids,
            pad_token_id=0,
            repetition_penalty=sampling.repetition_penalty,
            output_scores=True,
            return_dict_in_generate=True,
            **(free if sampling.temperature > 0 else {}),
        )
        made = self.model.generate(ids, attention_mask=mask, generation_config=config)
        new = made.sequences[:, width:]
        # Greedy scores are raw logits; sampled ones are after temperature and truncation.
        steps = [
            log_softmax(scores, 1.0).gather(1, new[:, i : i + 1]).squeeze(1)
            for i, scores in enumerate(made.scores)
        ]
        logp = torch.stack(steps, dim=1)
        lengths = [
            min(self._length(row), n) for row, n in zip(new.tolist(), max_new_tokens, strict=True)
        ]
        answers = [(new[i, :n].tolist(), logp[i, :n].tolist()) for i, n in enumerate(lengths)]
        return [Answer(ids, found, ids[-1] not in self.eos_ids) for ids, found in answers]

    def _length(self, ids: list[int]) -> int:
        ends = [i for i, token in enumerate(ids) if token in self.eos_ids]
        return ends[0] + 1 if ends else len(ids)

    @torch.no_grad()
    def score(self, rows: list[list[int]], temperature: float) -> list[list[float]]:
        """See `Rollout.score`."""
        found = []
        for row in rows:
            ids = torch.tensor([row], device=self.device)
            log_probs = log_softmax(self.model(ids, use_cache=False).logits[0, :-1], temperature)
            logp: Tensor = log_probs.gather(1, ids[0, 1:, None]).squeeze(1)
            found.append([float(np.nan), *logp.tolist()])
        return found

    @torch.no_grad()
    def transfer(self, folder: Path) -> Transfer:
        """See `Rollout.transfer`."""
        own = self.model.state_dict()
        for name, tensor in self._load(folder).state_dict().items():
            if name in own:
                own[name].copy_(tensor)
        return self.verify(folder)

    def verify(self, folder: Path) -> Transfer:
        """See `Rollout.verify`."""
        sent = fingerprint_tensors(whole_state(str(folder)))
        found = compare_weights([fingerprint_tensors(self.model.state_dict().items())], sent)
        seen = len(sent) - len(found.unseen)
        return Transfer(len(sent), seen, found.differing, found.unseen)

    def flush(self) -> None:
        """Nothing is cached between calls."""
