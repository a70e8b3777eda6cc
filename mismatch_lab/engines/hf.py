"""transformers in one process: as engine (its own `generate`), as trainer, as fp32 reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.base import Progress
from mismatch_lab.engines.multi_turn import sample_conversations
from mismatch_lab.engines.options import TorchOptions, parse_options
from mismatch_lab.engines.torch_engine import TorchEngine
from mismatch_lab.engines.torch_model import CPU, load_model
from mismatch_lab.schema import Prompt, Sampling, SideSpec


class HfEngine(TorchEngine):
    """One process, one device."""

    def __init__(self, spec: SideSpec) -> None:
        super().__init__(spec, parse_options(TorchOptions, "hf", spec.args))
        # What a run asks for and nothing else: `generate` takes what is left open from here, and
        # a checkpoint may ask for min-p, penalties, or tokens never to be drawn.
        model: Any = self.scorer.parts.model
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    def load(self, options: TorchOptions) -> nn.Module:
        """The checkpoint, on the device unless something is to change it."""
        device = CPU if self.changes_model else self.device
        return load_model(self.spec, options, self.load_dtype(options), device)

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """See `Engine.generate`; log-probs are of the processed distribution."""
        torch.manual_seed(sampling.seed)

        def sample(batch: list[list[int]]) -> list[tuple[list[int], list[float]]]:
            answers = []
            for start in range(0, len(batch), self.micro_batch):
                answers += self._sample(batch[start : start + self.micro_batch], sampling)
            return answers

        return sample_conversations(
            prompts,
            self.tokeniser,
            sample,
            sampling.max_tokens,
            self.context_length,
            self.spec.model,
            progress,
        )

    def _sample(
        self, batch: list[list[int]], sampling: Sampling
    ) -> list[tuple[list[int], list[float]]]:
        longest = max(len(ids) for ids in batch)
        eos = sorted(self.tokeniser.eos_ids)
        pad = eos[0] if eos else 0
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
        with torch.no_grad():
            output = self.scorer.parts.model.generate(  # type: ignore[operator]
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=sampling.max_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,  # transformers samples from the top 50 unless told otherwise
                repetition_penalty=1.0,
                eos_token_id=eos or None,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_scores=True,
            )
        scores = torch.stack([torch.log_softmax(step.float(), -1) for step in output.scores], dim=1)
        answers = []
        for row, new in enumerate(output.sequences[:, longest:].tolist()):
            stop = next((i + 1 for i, token in enumerate(new) if token in eos), len(new))
            logp = scores[row, torch.arange(stop), torch.tensor(new[:stop])]
            answers.append((new[:stop], [float(v) for v in logp]))
        return answers
