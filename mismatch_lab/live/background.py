"""Work beside a training loop that the loop never waits for and never fails by.

Steps are handed over and worked on, in order, by one thread. What comes while it is behind is left
out and counted. An error in it is a warning, once, and the next step is tried as if nothing was.
"""

from __future__ import annotations

import atexit
import queue
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

WAITING = 2
"""Steps that may wait: more would hold batches in memory that training needs."""
CLOSE_S = 30.0
"""What the end of a program waits for the last steps."""

Work = TypeVar("Work")


class Background(Generic[Work]):
    """A queue and the thread that empties it."""

    def __init__(self, work: Callable[[Work], None], does: str) -> None:
        """Args:
        work: is called with each piece, in the thread.
        does: what is not done where it fails, for the warning.
        """
        self.left_out = 0
        """Pieces that came while the thread was behind, or that failed."""
        self._work, self._does = work, does
        self._warned = False
        self._waiting: queue.Queue[Work | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="mismatch-lab", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def hand_over(self, make: Callable[[], Work]) -> None:
        """Call `make`, which copies, unless the thread is behind; raises nothing."""
        if self._waiting.full():  # before anything is copied from a device
            self.left_out += 1
            return
        try:
            self._waiting.put_nowait(make())
        except queue.Full:
            self.left_out += 1
        except Exception as error:
            self.failed(error)

    def flush(self) -> None:
        """Wait until all that was handed over has been worked on."""
        if self._thread.is_alive():
            self._waiting.join()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Finish what waits; at the end of the program it happens by itself."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            try:
                self._waiting.put(None, timeout=timeout_s)
            except queue.Full:
                return
            self._thread.join(timeout_s)

    def failed(self, error: Exception) -> None:
        """Count it, and say it the first time."""
        self.left_out += 1
        if not self._warned:
            self._warned = True
            with suppress(Warning):  # where warnings are errors, this one is none
                warnings.warn(
                    f"mismatch-lab {self._does} nothing of this step, and training goes on: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=3,
                )

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            try:
                self._work(piece)
            except Exception as error:
                self.failed(error)
            finally:
                self._waiting.task_done()


def on_host(values: Any) -> NDArray[Any]:
    """A copy of its own: what it was may be changed by the next step."""
    if hasattr(values, "detach"):
        values = values.detach()
        values = values.float() if values.is_floating_point() else values
        values = values.cpu().numpy()
    return np.array(values)
