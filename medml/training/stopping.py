"""Ending a training from outside: a signal is noted, and obeyed where the state is whole."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Remembers SIGTERM or SIGINT until somebody asks.

    Attributes
    ----------
    received : int
        The signal's number; 0 while there was none.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self) -> None:
        """Take over both signals; only the main thread may."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def leave_if_received(self) -> None:
        """End the process with 128 + the signal's number, as a shell would; call where nothing needs saving."""
        if self.received:
            raise SystemExit(128 + self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
