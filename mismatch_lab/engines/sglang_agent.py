"""What of mismatch-lab runs in SGLang's scheduler process, beside the model.

It changes nothing that SGLang computes: it hands the loaded model to a plugin, reads fingerprints,
and records through hooks while a sequence is scored.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mismatch_lab.engines.plugin import apply_plugin
from mismatch_lab.engines.sglang_cpu import prepare
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.processes.messages import Failed
from mismatch_lab.schema import Strict


class AgentSetting(Strict):
    """What the agent is told when the scheduler starts."""

    model: str
    plugin: str | None = None
    resync: tuple[str, ...] = ()
    folder: str = ""
    """Where requests, answers and failures go."""


def run_scheduler(setting: AgentSetting, *args: Any, **kwargs: Any) -> None:
    """SGLang's `run_scheduler_process`, with the agent in place."""
    prepare()
    from sglang.srt.managers import scheduler

    Agent(setting).install(scheduler)
    scheduler.run_scheduler_process(*args, **kwargs)


class Agent:
    """Reached through the method `mismatch_lab` that SGLang's scheduler gets."""

    def __init__(self, setting: AgentSetting) -> None:
        self.setting = setting
        self.model: Any = None
        self._recorder: Any = None

    def install(self, module: Any) -> None:
        """Into SGLang's scheduler module, before a scheduler is made."""
        from sglang.srt.model_executor.model_runner import ModelRunner

        agent, load = self, ModelRunner.load_model
        says = module.get_exception_traceback

        def load_model(runner: Any, *args: Any, **kwargs: Any) -> Any:
            result = load(runner, *args, **kwargs)
            if agent.model is None:  # the first is the model; others are drafts
                agent.loaded(runner.model)
            return result

        def exception_traceback() -> Any:
            agent.tell("failure", _failure(sys.exc_info()[1]))
            return says()

        ModelRunner.load_model = load_model
        module.get_exception_traceback = exception_traceback
        module.Scheduler.mismatch_lab = lambda scheduler, request: agent.answer(scheduler, request)

    def loaded(self, model: Any) -> None:
        """Before caches are made and graphs are captured."""
        import torch

        self.model = model
        with torch.no_grad():
            if self.setting.plugin:
                apply_plugin(self.setting.plugin, model)
            if self.setting.resync:
                from mismatch_lab.engines.vllm_update import reload_tensors

                reload_tensors(model, self.setting.model, self.setting.resync)

    def answer(self, scheduler: Any, request: str) -> None:
        """Run one request; what comes out, or how it failed, goes into the file beside it."""
        path = Path(request)
        name, arguments = pickle.loads(path.read_bytes())
        handler: Callable[..., Any] = getattr(self, f"on_{name}")
        value, failure = None, None
        try:
            value = handler(**arguments)
        except Exception as error:
            traceback.print_exc()
            failure = _failure(error)
        if _is_first_rank(scheduler):
            self.tell(f"{path.stem}.answer", (value, failure))

    def tell(self, name: str, what: Any) -> None:
        """Write a file of the private folder, whole or not at all."""
        target = Path(self.setting.folder) / name
        unfinished = target.with_suffix(f"{target.suffix}.tmp")
        unfinished.write_bytes(pickle.dumps(what))
        unfinished.rename(target)

    def on_seed(self, seed: int) -> None:
        """Of the draws that follow, where a request's own seed is not used."""
        import torch

        torch.manual_seed(seed)

    def on_fingerprint(self) -> Any:
        """Of every weight as kernels read it now."""
        from mismatch_lab.engines.sglang_weights import held_fingerprints

        return held_fingerprints(self.model)

    def on_record(self, **request: Any) -> None:
        """Hooks on; see `sglang_recorder.Recorder`."""
        from mismatch_lab.engines.sglang_recorder import Recorder

        self.on_release()
        self._recorder = Recorder(self.model, **request)
        self._recorder.attach()

    def on_recorder(self, call: str, **arguments: Any) -> Any:
        """A call of the recorder."""
        return getattr(self._recorder, call)(**arguments)

    def on_release(self) -> None:
        """Hooks off."""
        if self._recorder is not None:
            self._recorder.release()
            self._recorder = None


def _failure(error: BaseException | None) -> Failed:
    if isinstance(error, MismatchLabError):
        return Failed.of(error)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")
    return Failed("EngineError", f"SGLang's scheduler failed: {said}")


def _is_first_rank(scheduler: Any) -> bool:
    rank = getattr(scheduler, "tp_rank", None)
    if rank is None:
        import torch.distributed as dist

        rank = dist.get_rank() if dist.is_initialized() else 0
    return int(rank) == 0
