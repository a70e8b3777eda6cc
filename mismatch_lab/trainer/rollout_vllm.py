"""Roll-outs by a real vLLM in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mismatch_lab.processes import process
from mismatch_lab.trainer.rollout import REQUESTS, EngineSpec, Found, Rollout

WORKER = "mismatch_lab.trainer.rollout_worker"
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                  "MASTER_PORT", "GROUP_RANK", "ROLE_RANK")  # fmt: skip
"""torchrun's: the engine must not take itself for a rank of the trainer."""


class VllmRollout(Rollout):
    """Starts with the run and stays; what it prints is in its log."""

    def __init__(self, spec: EngineSpec) -> None:
        self._start(spec)

    def _start(self, spec: EngineSpec) -> None:
        self.spec = spec
        workers = process.environment_of_workers()
        environment = {k: v for k, v in workers.items() if k not in RANK_VARIABLES}
        if spec.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = spec.devices
        self._process = process.start(
            "engine", WORKER, [], Path(spec.log), REQUESTS, environment=environment, log_mode="a"
        )
        try:
            self.version = self.ask(spec, str)
        except BaseException:
            self.close()
            raise

    def ask(self, request: Any, wanted: type[Found]) -> Found:
        """See `Rollout.ask`."""
        return self._process.ask(request, wanted)

    def restart(self, folder: Path) -> None:
        """See `Rollout.restart`."""
        self.close()
        self._start(replace(self.spec, folder=str(folder)))

    def close(self) -> None:
        """See `Rollout.close`."""
        self._process.close()
