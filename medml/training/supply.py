"""Batches drawn ahead, by a thread, while the network learns."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from medml.training.batches import Batch

AHEAD = 2
SECONDS_BETWEEN_LOOKS = 0.05


class Supply:
    """Gives the batch of each step; the next ones are drawn meanwhile.

    What is drawn depends on the step alone, so that it makes no difference how far ahead it happens. Copying patches
    lets go of Python's lock, so that a thread is enough; at most ``ahead`` batches wait, and one more is being drawn.

    Parameters
    ----------
    draw : callable
        Gives the batch of a step.
    pin : bool
        Put batches where a GPU can fetch them while it computes.
    """

    def __init__(self, draw: Callable[[int], Batch], *, ahead: int = AHEAD, pin: bool = False) -> None:
        self._draw, self._ahead, self._pin = draw, ahead, pin
        self._thread: threading.Thread | None = None
        self._next = 0
        self._waited, self._since = 0.0, float("nan")

    def __enter__(self) -> Supply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, step: int) -> Batch:
        """Return the batch of one step; steps are expected one after the other, any other one begins anew.

        Raises
        ------
        Exception
            What drawing it raised.
        """
        start = time.perf_counter()
        if math.isnan(self._since):
            self._since = start
        if self._thread is None or step != self._next:
            self._begin(step)
        drawn = self._ready.get()
        self._next = step + 1
        self._waited += time.perf_counter() - start
        if isinstance(drawn, Exception):
            self.close()
            raise drawn
        return drawn

    def share_waited(self) -> float:
        """Return the share of time that went into waiting, since the first batch taken after the last call of this."""
        spent = time.perf_counter() - self._since
        share = self._waited / spent if spent > 0 else 0.0
        self._waited, self._since = 0.0, float("nan")
        return share

    def close(self) -> None:
        """Stop drawing, and wait until that has happened; `take` begins again."""
        if self._thread is None:
            return
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=SECONDS_BETWEEN_LOOKS)  # makes room for one who waits to put
            except queue.Empty:
                continue
        self._thread.join()
        self._thread = None

    def _begin(self, step: int) -> None:
        self.close()
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(self._ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(step,), name="batches", daemon=True)
        self._thread.start()

    def _fill(self, step: int) -> None:
        while not self._stopped.is_set():
            try:
                drawn: Batch | Exception = self._draw(step)
                if self._pin and isinstance(drawn, Batch):
                    drawn = drawn.pinned()
            except Exception as error:  # handed on to the one who takes
                drawn = error
            self._ready.put(drawn)
            if isinstance(drawn, Exception):
                return
            step += 1
