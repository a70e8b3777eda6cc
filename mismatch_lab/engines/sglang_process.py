"""SGLang's engine with an agent of ours in its scheduler process, where the model is.

The engine is started as a program starts it: `sglang.Engine`, a scheduler in a process of its own,
requests through its sockets. What is asked of the model itself (hooks, fingerprints) goes to the
agent through SGLang's own remote calls, with arguments and answers in files of a private folder.
"""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from mismatch_lab.engines.sglang_agent import AgentSetting, run_scheduler
from mismatch_lab.engines.sglang_cpu import prepare
from mismatch_lab.errors import EngineError

POLL_MS = 500
"""How often a caller that waits looks whether the scheduler is alive."""
IDLE_S = 30.0
"""How long the scheduler may take to come to rest before the cache is emptied."""

_half_made: list[BaseException] = []
"""What ended starts; the engines in their frames, once collected, would wait for their sockets."""


class SglangProcess:
    """A running engine, and the line to the agent in it."""

    def __init__(self, arguments: dict[str, Any], setting: AgentSetting) -> None:
        """Start it.

        Raises:
            MismatchLabError: what the agent met while the weights were loaded.
            EngineError: SGLang's scheduler failed, with its words.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="mismatch-lab-sglang-"))
        self.setting = setting.model_copy(update={"folder": str(self.folder)})
        self._calls = 0
        self._schedulers: list[Any] = []
        self._engine: Any = None
        try:
            self._engine = self._launched(arguments)
        except BaseException as error:
            _half_made.append(error)
            self._raise_what_it_said(error)
            raise
        self._watch_for_deaths()

    def generate(self, batch: list[list[int]], **request: Any) -> list[dict[str, Any]]:
        """SGLang's answers to token ids, in order.

        Raises:
            EngineError: the scheduler died, or an answer is missing.
        """
        try:
            answers = self._engine.generate(input_ids=batch, return_logprob=True, **request)
        except BaseException as error:
            self._raise_what_it_said(error)
            raise
        found = answers if isinstance(answers, list) else [answers]
        if len(found) != len(batch):
            raise EngineError(f"SGLang gave {len(found)} answers to {len(batch)} requests.")
        return found

    def ask(self, name: str, **arguments: Any) -> Any:
        """Call a method of the agent.

        Raises:
            MismatchLabError: what the agent raised.
            EngineError: the scheduler died, or the agent failed.
        """
        from sglang.srt.entrypoints.engine import sock_recv, sock_send
        from sglang.srt.managers.io_struct import RpcReqInput

        self._calls += 1
        request = self.folder / f"{self._calls}.request"
        answer = self.folder / f"{self._calls}.answer"
        request.write_bytes(pickle.dumps((name, arguments)))
        line = self._engine.send_to_rpc
        sock_send(line, RpcReqInput(method="mismatch_lab", parameters={"request": str(request)}))
        while not line.poll(POLL_MS):
            if not all(process.is_alive() for process in self._schedulers):
                self._raise_what_it_said(EngineError("its process is gone"))
        said = sock_recv(line)
        if not answer.is_file():
            raise EngineError(f"SGLang's scheduler did not answer {name}: {said.message}")
        value, failure = pickle.loads(answer.read_bytes())
        request.unlink()
        answer.unlink()
        if failure is not None:
            raise failure.error()
        return value

    def flush(self) -> None:
        """Empty the prefix cache, once the scheduler is at rest: a busy one refuses.

        Raises:
            EngineError: it does not come to rest.
        """
        until = time.monotonic() + IDLE_S
        while not self._engine.flush_cache().success:
            if time.monotonic() > until:
                raise EngineError(f"SGLang did not come to rest within {IDLE_S:.0f} s.")
            time.sleep(0.05)

    @property
    def engine(self) -> Any:
        """SGLang's own object."""
        return self._engine

    def close(self) -> None:
        """End the scheduler, and what else SGLang started."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launched(self, arguments: dict[str, Any]) -> Any:
        on_cpu = prepare()
        from sglang.srt.entrypoints.engine import Engine

        started = self._schedulers

        class WatchedEngine(Engine):  # type: ignore[misc, unused-ignore]
            run_scheduler_process_func = staticmethod(partial(run_scheduler, self.setting))

            @classmethod
            def _launch_scheduler_processes(cls, *args: Any, **kwargs: Any) -> Any:
                if on_cpu:  # what is imported here need not be imported again
                    multiprocessing.set_start_method("fork", force=True)
                result, processes = super()._launch_scheduler_processes(*args, **kwargs)
                started.extend(processes or [])
                return result, processes

            @classmethod
            def _launch_detokenizer_subprocesses(cls, *args: Any, **kwargs: Any) -> Any:
                return [], []  # token ids come out: it would have nothing to do

        return WatchedEngine(**arguments, custom_sigquit_handler=_scheduler_failed)

    def _watch_for_deaths(self) -> None:
        """SGLang would kill this process with the scheduler; the loop is stopped instead."""
        manager = self._engine.tokenizer_manager
        engine, usual = self._engine, manager.signal_handler_class

        class Stopping(usual):  # type: ignore[misc, valid-type, unused-ignore]
            def running_phase_sigquit_handler(self, signum: Any = None, frame: Any = None) -> None:
                engine.loop.stop()

        manager.signal_handler_class = Stopping

    def _raise_what_it_said(self, error: BaseException) -> None:
        """Raise what ended the scheduler in place of what its end led to here."""
        for process in self._schedulers:
            process.join(timeout=1)
        told = self.folder / "failure"
        if told.is_file():
            raise pickle.loads(told.read_bytes()).error() from error
        codes = [process.exitcode for process in self._schedulers if process.exitcode is not None]
        if -signal.SIGKILL in codes:
            raise EngineError(
                "SGLang's scheduler was killed, most likely for memory.",
                "Lower --engine-arg max_total_tokens=… or context_length=…; or take a smaller one.",
            ) from error
        if codes:
            raise EngineError(
                f"SGLang's scheduler ended with code {codes[0]}.", "The log named below has more."
            ) from error


def _scheduler_failed(signum: int, frame: Any) -> None:
    raise EngineError("SGLang's scheduler failed while it started.")
