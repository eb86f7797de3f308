"""How long to go on trying, and whom to tell meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flinkray.errors import StorageError

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Patience:
    """Pauses that grow, until a time is over (None: never) or `stop` is set; then StorageError."""

    def __init__(
        self,
        timeout_s: float | None,
        stop: threading.Event | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._stop = stop
        self._on_trouble = on_trouble
        self._pause_s = _FIRST_PAUSE_S
        self.last_trouble = ""

    def trouble(self, text: str) -> None:
        """A try has failed: say so."""
        self.last_trouble = text
        if self._on_trouble is not None:
            self._on_trouble(text)

    def wait(self, what: str) -> None:
        """Pause before the next try. Raises StorageError, saying what is still open and what went wrong last, when there is none."""
        if self._paused_in_vain() or (self._deadline is not None and time.monotonic() > self._deadline):
            raise StorageError(f"{what}: {self.last_trouble or 'no answer'}")
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _paused_in_vain(self) -> bool:
        if self._stop is None:
            time.sleep(self._pause_s)
            return False
        return self._stop.wait(self._pause_s)
