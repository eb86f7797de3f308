"""Folders of ipc sockets, one a process, and what is left of those of processes that were killed.

Whoever uses a folder holds a lock on the file beside it, which the kernel gives back when the process ends, however it ends: a folder whose
lock can be taken belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress

LOCK = ".lock"


def parent() -> str:
    """Of this user's folders on this host."""
    return os.path.join(tempfile.gettempdir(), f"flinkray-{os.getuid()}")


class SocketFolder:
    """`path` is this process's until it ends; nothing is there yet but the lock beside it."""

    def __init__(self, instance: str, under: str | None = None) -> None:
        under = under or parent()
        os.makedirs(under, mode=0o700, exist_ok=True)
        self.path = os.path.join(under, instance[:12])
        while not self._hold():
            pass  # swept between its making and its locking

    def _hold(self) -> bool:
        self._lock = os.open(self.path + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.stat(self.path + LOCK).st_ino == os.fstat(self._lock).st_ino:
                return True
        os.close(self._lock)
        return False

    def remove(self) -> None:
        """The process is about to end."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self.path + LOCK)


def sweep(under: str | None = None) -> None:
    """Delete what nobody holds any more. Never fails: what cannot be deleted stays."""
    under = under or parent()
    with suppress(OSError):
        for name in os.listdir(under):
            if name.endswith(LOCK):
                _sweep(os.path.join(under, name))


def _sweep(lock: str) -> None:
    with suppress(OSError):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.removesuffix(LOCK), ignore_errors=True)
            os.unlink(lock)
        finally:
            os.close(descriptor)
