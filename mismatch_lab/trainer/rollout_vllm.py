"""Roll-outs by a real vLLM in a process of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mismatch_lab.executors import local
from mismatch_lab.executors.environment import worker_environment
from mismatch_lab.trainer.rollout import EngineSpec
from mismatch_lab.trainer.rollout_requests import Requests

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                  "MASTER_PORT", "GROUP_RANK", "ROLE_RANK")  # fmt: skip
"""torchrun's: the engine must not take itself for a rank of the trainer."""


class VllmRollout(Requests):
    """Starts with the run and stays; what it prints is in its log."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.version = ""
        self._scratch = Path(tempfile.mkdtemp(prefix="mismatch-lab-engine-"))
        self._process: subprocess.Popen[str] | None = None
        self._start()

    def _start(self) -> None:
        spec_file = self._scratch / "spec.json"
        given = asdict(self.spec) | {"plugin": self._plugin()}
        spec_file.write_text(json.dumps(given), encoding="utf-8")
        environment = {k: v for k, v in worker_environment().items() if k not in RANK_VARIABLES}
        if self.spec.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.spec.devices
        log = Path(self.spec.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as errors_to:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mismatch_lab.trainer.rollout_worker", str(spec_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_to,
                text=True,
                start_new_session=True,
                env=environment,
            )
        self.version = str(self._answer("started")["version"])

    def _plugin(self) -> str | None:
        """What is done to the engine's model after its weights are loaded: a fault, a fix."""
        lines = ["def change(model):"]
        if self.spec.fault is not None:
            name, severity = self.spec.fault
            lines += [
                "    from mismatch_lab.faults import load_fault",
                f"    fault = load_fault({name!r})",
                f"    fault.plant(model, fault.severities[{severity!r}])",
            ]
        if self.spec.head_fp32:
            lines += [
                "    from mismatch_lab.remedies.fp32_head import engine_head_in_fp32",
                "    engine_head_in_fp32(model)",
            ]
        if len(lines) == 1:
            return None
        file = self._scratch / "change.py"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"{file}:change"

    def restart(self, folder: Path) -> None:
        """See `Rollout.restart`."""
        self._end()
        self.spec = replace(self.spec, folder=str(folder))
        self._start()

    def close(self) -> None:
        """End the process and remove what it used."""
        self._end()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self) -> None:
        if self._process is not None:
            local.end(self._process)
            self._process = None

    def ask(self, what: str, **arguments: Any) -> Any:
        """See `Requests.ask`."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says how it died
            self._process.stdin.write(json.dumps({"do": what, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        return self._answer("done")["result"]

    def _answer(self, wanted: str) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue
            event: dict[str, Any] = json.loads(line)
            if event["event"] == wanted:
                return event
            if event["event"] == "error":
                raise local.as_error(event, Path(self.spec.log))
        raise local.death("engine", self._process.wait(), Path(self.spec.log))
