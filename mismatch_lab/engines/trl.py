"""TRL as the trainer: `--trainer trl`. Its own GRPOTrainer computes the log-probs, fused head and
all.

`--trainer-arg config=FILE.yaml` is the file that `trl grpo --config` takes, `--trainer-arg
NAME=VALUE` any field of GRPOConfig, over the file. The model is loaded and wrapped by TRL; nothing
is trained. Sequences are padded on the right and scored in training mode, in which TRL computes its
old log-probs, so that dropout shows as a difference between two passes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Float32, Int64
from mismatch_lab.engines.function import FunctionEngine, Score
from mismatch_lab.errors import EngineError, InputError, choices
from mismatch_lab.schema import OptionValue, SideSpec

SCORES = "_get_per_token_logps_and_entropies"
"""What TRL computes old, reference and current log-probs with."""
TRIED_WITH = "1.16"

CONFIG = "config"
"""Option: TRL's own YAML."""
OF_THE_SCRIPT = frozenset(
    {
        *("model_name_or_path", "model_revision", "dtype", "torch_dtype", "dataset_name"),
        *("dataset_config", "dataset_train_split", "dataset_test_split", "reward_funcs"),
        *("reward_model_name_or_path", "trust_remote_code", "attn_implementation"),
    }
)
"""Entries of such a file that are of TRL's scripts: model and dtype are those of the run."""


class TrlEngine(FunctionEngine):
    """Scores as GRPOTrainer does."""

    def __init__(self, spec: SideSpec) -> None:
        super().__init__(spec)
        self.version = f"trl {version('trl')}, transformers {version('transformers')}"

    def load(self, options: dict[str, OptionValue]) -> Score:
        """See `FunctionEngine.load`."""
        return Trl(self.spec.model, self.spec.dtype, options)


class Trl:
    """A function that scores, as `engines.function` asks for one."""

    def __init__(self, model: str, dtype: str, options: Mapping[str, OptionValue]) -> None:
        from trl import GRPOConfig, GRPOTrainer

        if not hasattr(GRPOTrainer, SCORES):
            raise EngineError(
                f"trl {version('trl')} has no GRPOTrainer.{SCORES}.",
                f"It was tried with trl {TRIED_WITH}; --trainer FILE.py:FUNC takes any code.",
            )
        given = dict(options)
        file = given.pop(CONFIG, None)
        asked = {**(_read(Path(str(file))) if file is not None else {}), **given}
        known = {field.name for field in fields(GRPOConfig)}
        for name in asked:
            if name not in known:
                raise InputError(f"GRPOConfig of TRL has no {name!r}.", choices(name, known))
        self._asked, self._path, self._dtype = asked, model, dtype
        self.module: Any = None
        self._scratch = tempfile.TemporaryDirectory(prefix="mismatch-lab-trl-")
        self._temperature = float("nan")
        self._build(1.0)

    def _build(self, temperature: float) -> None:
        """TRL divides by the temperature that its head was built with; the model stays the same."""
        import torch
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        if temperature == self._temperature:
            return
        half = {"bf16": self._dtype == "bfloat16", "fp16": self._dtype == "float16"}
        own = {
            "output_dir": self._scratch.name,
            "report_to": "none",
            "temperature": temperature,
            "num_generations": 2,
            "per_device_train_batch_size": 2,
            "use_cpu": not torch.cuda.is_available(),
            "use_vllm": False,  # what samples is the engine; no server is asked for weights
        }
        self.trainer = GRPOTrainer(
            model=self._path if self.module is None else self.module,
            args=GRPOConfig(**half | self._asked | own),
            processing_class=AutoTokenizer.from_pretrained(self._path),
            reward_funcs=_no_reward,
            train_dataset=Dataset.from_list([{"prompt": "none"}]),
        )
        self.module = self.trainer.model
        self.module.train()  # as `Trainer.training_step` has it before inputs are prepared
        self._temperature = temperature

    def __call__(
        self, ids: Int64, positions: Int64, documents: Int64, temperature: float
    ) -> Float32:
        """See `engines.function`."""
        import torch

        self._build(temperature)
        lengths = np.bincount(documents).tolist()
        padded = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, length in enumerate(lengths):
            padded[row, :length] = torch.from_numpy(ids[documents == row])
            mask[row, :length] = 1
        device = self.trainer.accelerator.device
        with torch.no_grad():
            logp, *_ = getattr(self.trainer, SCORES)(
                self.module, padded.to(device), mask.to(device), padded.shape[1] - 1
            )
        held = np.zeros(padded.shape, np.float32)
        held[:, 1:] = logp.float().cpu().numpy()
        return np.concatenate([held[row, :length] for row, length in enumerate(lengths)])


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _read(file: Path) -> dict[str, Any]:
    """GRPOConfig's part of a file of `trl grpo --config`.

    Raises:
        InputError: it cannot be read.
    """
    import yaml

    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no YAML of TRL's: {error}.") from error
    if not isinstance(held, dict):
        raise InputError(f"{file} is no YAML of TRL's: it holds no options.")
    return {name: value for name, value in held.items() if name not in OF_THE_SCRIPT}
