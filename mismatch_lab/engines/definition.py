"""The model by its definition (`mismatch_lab.definitions`), as an engine that scores.

It shares no model code with transformers, so that what it says decides between an engine and
transformers, and with those who train with transformers.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mismatch_lab.captures.capture import Capture
from mismatch_lab.checkpoints.config import read_config, resolve_model_path
from mismatch_lab.definitions.model import load_definition
from mismatch_lab.engines.base import Progress
from mismatch_lab.engines.options import TorchOptions, parse_options
from mismatch_lab.engines.torch_engine import TorchEngine
from mismatch_lab.engines.torch_model import DTYPES
from mismatch_lab.errors import InputError, NotDefinedError
from mismatch_lab.schema import Prompt, Sampling, SideSpec


class DefinitionEngine(TorchEngine):
    """Scores rows, records and replays modules, as engine `hf` does."""

    def __init__(self, spec: SideSpec) -> None:
        options = parse_options(TorchOptions, "definition", spec.args)
        for name in ("attn_implementation", "experts_implementation"):
            if getattr(options, name) != "auto":
                raise InputError(f"Engine definition has one attention: leave out {name}.")
        super().__init__(spec, options)
        self.version = "mismatch-lab's own definitions"

    def load(self, options: TorchOptions) -> nn.Module:
        """See `TorchEngine.load`.

        Raises:
            NotDefinedError: no such architecture here, or the checkpoint is no folder.
        """
        folder = Path(resolve_model_path(self.spec.model))
        if not folder.is_dir():
            raise NotDefinedError(f"{self.spec.model} is no checkpoint folder.")
        try:
            return load_definition(folder, read_config(self.spec.model), DTYPES[self.spec.dtype])
        except NotDefinedError as error:
            raise NotDefinedError(f"{self.spec.model}: {error.problem}", error.hint) from error

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """A definition does not sample."""
        raise InputError("Engine definition scores, it cannot sample.", "Use --engine vllm or hf.")
