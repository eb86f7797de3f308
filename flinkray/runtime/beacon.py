"""The open call of standbys to the leader, over a TCP connection of its own: the kernel closes it the moment the leader's process is killed. (A Ray
call to an actor that may be restarted is held back for a second or more then.)

The standby sends the election that it believes in; the leader answers `1` again and again while it leads that election, and `0` when not. Nothing
else travels, and nothing rests on it but when a standby tries to be elected (docs/protocol.md, rule 8).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from flinkray.core.leadership_events import Beat, LeadershipEvent, Watch, WatchBroke

CONNECTIONS_LIMIT = 32
_LEADS, _LEADS_NOT = b"1", b"0"
_ASK_BYTES = 20

Leads = Callable[[int, float], bool]
"""(election, seconds): whether this process leads that election; returns False as soon as it does not, True after the time."""


class Beacon:
    """The leader's side; every JobManager process has one."""

    def __init__(self, host: str, leads: Leads, lease_s: float) -> None:
        self._leads = leads
        self._lease_s = lease_s
        self._socket = socket.create_server((host, 0), backlog=CONNECTIONS_LIMIT)
        self._free = threading.Semaphore(CONNECTIONS_LIMIT)
        self.endpoint = f"{host}:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, name="flinkray-beacon", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone does not
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._answer, args=(connection,), name="flinkray-beacon-call", daemon=True).start()
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            connection.settimeout(self._lease_s)
            election = int(connection.recv(_ASK_BYTES))
            connection.sendall(_LEADS if self._leads(election, 0.0) else _LEADS_NOT)
            while self._leads(election, self._lease_s / 4):
                connection.sendall(_LEADS)
            connection.sendall(_LEADS_NOT)
        self._free.release()


class LeaderWatch:
    """The standby's side. One thread for each leader that is watched, one at a time; the thread of an earlier one ends by itself."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._watch: Watch | None = None

    def __call__(self, watch: Watch | None, tell: Callable[[LeadershipEvent], None]) -> None:
        self._watch = watch
        if watch is not None:
            threading.Thread(target=self._run, args=(watch, tell), name="flinkray-watch", daemon=True).start()

    def _run(self, watch: Watch, tell: Callable[[LeadershipEvent], None]) -> None:
        while self._watch is watch:
            try:
                self._listen(watch, tell)
            except TimeoutError:
                continue  # hung or cut off: the lease runs out
            except OSError:
                pass
            if self._watch is watch:
                tell(WatchBroke(watch.election))
                time.sleep(self._lease_s / 8)  # the election is decided by then, or it is told once more

    def _listen(self, watch: Watch, tell: Callable[[LeadershipEvent], None]) -> None:
        """Returns when the leader says that it does not lead, or ends. Raises OSError when it cannot be reached, TimeoutError when it is
        silent."""
        host, _, port = watch.leader.rpartition(":")
        with socket.create_connection((host, int(port)), self._lease_s) as connection:
            connection.settimeout(self._lease_s)
            connection.sendall(str(watch.election).encode())
            while self._watch is watch and connection.recv(1) == _LEADS:
                tell(Beat(watch.election))
