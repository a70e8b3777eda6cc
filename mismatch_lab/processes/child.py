"""The process's own side: its channel to the program that started it, with which it ends.

The channel is its standard input, a socket: the one thing that torchrun's ranks inherit, too. What
libraries read there is nothing, and what they print goes to the log.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pydantic_core import from_json, to_json

from mismatch_lab.errors import MismatchLabError
from mismatch_lab.processes.messages import ANSWERS, Failed, Messages


class Channel:
    """Messages both ways between two processes."""

    def __init__(self, connection: Connection, messages: Messages) -> None:
        self._connection = connection
        self._messages = messages

    def send(self, message: Any) -> None:
        """Raises OSError where the other side is gone."""
        self._connection.send_bytes(to_json(self._messages.plain(message)))

    def receive(self, within_s: float | None = None) -> Any:
        """The next message; raises EOFError where the other side is gone, TimeoutError where it
        says nothing in time.
        """
        if self.closed:
            raise EOFError
        try:
            if not self._connection.poll(within_s):
                raise TimeoutError
            return self._messages.read(from_json(self._connection.recv_bytes()))
        except ConnectionError as error:
            raise EOFError from error

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def close(self) -> None:
        self._connection.close()


def parent_channel(messages: Messages) -> Channel:
    """The channel to the program that started this process."""
    connection = Connection(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    end_with(connection.fileno())
    return Channel(connection, messages)


def end_with(line: int) -> None:
    """End this process's whole session as soon as the other end of a line is closed: no engine
    outlives the program that started it, whatever either is doing.
    """
    closed = select.poll()
    closed.register(line, 0)  # what can be read is left to others

    def watch() -> None:
        closed.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def serve(channel: Channel, answer: Callable[[Any], Any]) -> None:
    """Answer requests one at a time, until the program that asks is gone or one fails."""
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            channel.send(answer(request))
        except ANSWERS as error:
            channel.send(Failed.of(error))


def told(
    channel: Channel, work: Callable[[], None], as_told: Callable[[Exception], MismatchLabError]
) -> int:
    """Do the work of this process; its exit code.

    An error is printed into the log and told; `as_told` has words for those of libraries.
    """
    try:
        work()
    except Exception as error:
        traceback.print_exc()
        ours = isinstance(error, MismatchLabError)
        channel.send(Failed.of(error if ours else as_told(error)))  # type: ignore[arg-type]
        return 2
    return 0
