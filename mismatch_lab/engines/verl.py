"""verl as the trainer: `--trainer verl`. Its own FSDP actor computes the log-probs.

`ActorRolloutRefWorker(role="actor")` is built and asked `compute_log_prob`, which verl's trainers
(legacy and v1) call for old log-probs: model building, monkey patches, FSDP wrapping, packing of
rows, mixed precision and log-prob kernels are verl's. Not run are ray, the rollout, the update.
`--trainer-arg config=FILE.yaml` is verl's configuration, `--trainer-arg NAME=VALUE` any entry of
its actor, as on verl's command line and over the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Float32, Int64
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.engines import verl_cpu
from mismatch_lab.engines.function import TOLERANCE_NATS, FunctionEngine, Score
from mismatch_lab.engines.interpreters import OWN
from mismatch_lab.engines.verl_config import ROOT, plain, read_actor, sorted_out
from mismatch_lab.errors import MissingDependencyError
from mismatch_lab.schema import OptionValue, SideSpec

CONFIG = "config"
"""Option: verl's own YAML."""
PACKAGED = Path("trainer") / "config" / "_generated_ppo_trainer.yaml"
"""verl's defaults, as Hydra resolves them: in its package."""
PRECISION = "actor.fsdp_config.mixed_precision"
IN_FORCE = {
    "strategy": "actor.strategy",
    "model_dtype": "actor.fsdp_config.model_dtype",
    "param_dtype": f"{PRECISION}.param_dtype",
    "attn_implementation": verl_cpu.ATTENTION,
    "use_fused_kernels": "model.use_fused_kernels",
    "use_liger": "model.use_liger",
}
"""Settings that a capture names, whoever chose them."""
LEAKS = (
    "model.use_remove_padding=false in place of true: {attention} attention of transformers "
    "{version} does not keep the packed rows of this model apart, as flash attention does"
)


class VerlEngine(FunctionEngine):
    """Scores as verl's FSDP actor does."""

    def __init__(self, spec: SideSpec) -> None:
        super().__init__(spec)
        self.version = f"verl {version('verl')}, transformers {version('transformers')}"
        verl: Any = self.score_ids
        self.packs = verl.packs
        self.patched += verl.notes
        self.options |= verl.in_force

    def load(self, options: dict[str, OptionValue]) -> Score:
        """See `FunctionEngine.load`."""
        import torch

        asked = dict(options)
        file = asked.pop(CONFIG, None)
        entries: dict[str, Any] = read_actor(Path(str(file))) if file is not None else {}
        entries |= {plain(name): value for name, value in asked.items()}
        return Verl(self.spec, entries, on_cpu=not torch.cuda.is_available())

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`; of whole tensors."""
        from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors

        held = self.module.state_dict().items()
        return fingerprint_tensors((name, _whole(tensor)) for name, tensor in held)

    def close(self) -> None:
        """Let go of the actor, and leave its process group."""
        import torch.distributed as dist

        super().close()
        dist.destroy_process_group()


class Verl:
    """verl's actor as a function that scores, as `engines.function` asks for one."""

    def __init__(self, spec: SideSpec, entries: Mapping[str, Any], on_cpu: bool) -> None:
        import yaml

        self._packaged = _package() / PACKAGED
        known = yaml.safe_load(self._packaged.read_text(encoding="utf-8"))[ROOT]
        config = sorted_out(entries, known)
        self.notes: list[str] = []
        stand_in: str | None = None  # attention in place of flash attention
        if on_cpu:
            verl_cpu.refuse(config.handed_on)
            stands_in, self.notes = verl_cpu.stand_ins(config.handed_on, *_of_model(spec))
            stand_in = stands_in.get(verl_cpu.ATTENTION)
            config.handed_on.update(stands_in)
            verl_cpu.activate()
        if not any(name.startswith(PRECISION) for name in config.handed_on):
            config.handed_on[f"{PRECISION}.param_dtype"] = spec.dtype
        _start_process_group(on_cpu)
        actor = self._built(spec, config.nested())
        self.worker = actor
        self.module: Any = actor.actor.engine.module
        self.packs = bool(actor.actor.model_config.use_remove_padding)
        if stand_in and self.packs and self._leaks(spec.dtype):
            self.packs = False
            self.notes.append(LEAKS.format(attention=stand_in, version=version("transformers")))
        self.in_force = self._settings(config.handed_on, known)
        if config.left:
            self.in_force["left_out"] = "; ".join(f"{n}: {why}" for n, why in config.left.items())

    def _built(self, spec: SideSpec, entries: dict[str, Any]) -> Any:
        """verl's worker with the model loaded and wrapped."""
        from omegaconf import OmegaConf
        from verl.workers.engine_workers import ActorRolloutRefWorker

        own = {
            "model": {"path": spec.model, "trust_remote_code": spec.trust_remote_code},
            # Each call is one micro-batch; verl's worker wants a size of both passes at its start.
            "actor": {"use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 1},
            "rollout": {"log_prob_micro_batch_size_per_gpu": 1},
        }
        config = OmegaConf.merge(OmegaConf.load(self._packaged), {ROOT: entries}, {ROOT: own})
        worker = ActorRolloutRefWorker(config[ROOT], role="actor")
        worker.init_model()
        return worker

    def _settings(
        self, handed_on: Mapping[str, Any], known: Mapping[str, Any]
    ) -> dict[str, OptionValue]:
        found: dict[str, OptionValue] = {"use_remove_padding": self.packs}
        for name, entry in IN_FORCE.items():
            value: Any = handed_on.get(entry)
            if value is None:
                value = known
                for part in entry.split("."):
                    value = value.get(part) if isinstance(value, dict) else None
            found[name] = value if value is not None else "verl's default"
        return found

    def _leaks(self, dtype: str) -> bool:
        """Whether a row's log-probs depend on the row before it in a packed micro-batch."""
        scored = []
        positions, documents = np.tile(np.arange(8), 2), np.repeat(np.arange(2), 8)
        for first in (np.arange(2, 10), np.arange(10, 2, -1)):
            ids = np.concatenate([first, np.arange(2, 10)])
            scored.append(self(ids, positions, documents, 1.0)[9:])
        return bool(np.abs(scored[0] - scored[1]).mean() > TOLERANCE_NATS[dtype])

    def __call__(
        self, ids: Int64, positions: Int64, documents: Int64, temperature: float
    ) -> Float32:
        """See `engines.function`; one micro-batch of verl's."""
        import torch
        from verl.utils import tensordict_utils

        starts = np.flatnonzero(positions == 0)[1:].tolist()

        def rows(values: Int64) -> Any:
            parts = [torch.from_numpy(part.copy()) for part in np.split(values, starts)]
            return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

        data = tensordict_utils.get_tensordict(
            {"input_ids": rows(ids), "position_ids": rows(positions),
             "loss_mask": rows(np.ones_like(ids))},
            {"temperature": float(temperature), "compute_loss": False, "calculate_entropy": False,
             "use_remove_padding": self.packs, "use_dynamic_bsz": False,
             "micro_batch_size_per_gpu": len(starts) + 1},
        )  # fmt: skip
        given = self.worker.compute_log_prob(data)["log_probs"].values()
        held = np.zeros(len(ids), np.float32)  # what verl gives at t is of the token at t + 1
        held[1:] = given.float().cpu().numpy()[:-1]
        return held


def _package() -> Path:
    """The folder that verl lies in; it is not imported, so that its platform can be set first."""
    found = find_spec("verl")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError("verl is not installed in this interpreter.", OWN["verl"].how)
    return Path(found.submodule_search_locations[0])


def _of_model(spec: SideSpec) -> tuple[str, bool]:
    """transformers' own choice of attention, and whether the head is the embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(spec.model, trust_remote_code=spec.trust_remote_code)
    with_sdpa = getattr(AutoModelForCausalLM._model_mapping[type(config)], "_supports_sdpa", False)
    return "sdpa" if with_sdpa else "eager", bool(getattr(config, "tie_word_embeddings", False))


def _start_process_group(on_cpu: bool) -> None:
    """One process in a group of its own, before verl's worker looks for one."""
    import torch
    import torch.distributed as dist

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    backend = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group(backend, rank=0, world_size=1, store=store)


def _whole(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
