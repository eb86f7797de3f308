"""A small thread that tells peers that this process lives, while the mailbox thread may be at work on a long batch.

It has sockets of its own, since ZeroMQ's are not for two threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from flinkray.exchange.base import Endpoint


@dataclass(frozen=True)
class Beat:
    peer: Endpoint
    frame: bytes


class BeatThread:
    """Sends each beat every `interval_s`, from the first `set_beats` on. Daemon; `close` ends it."""

    def __init__(self, connect: Callable[[Endpoint], zmq.Socket], interval_s: float) -> None:
        self._connect = connect
        self._interval_s = interval_s
        self._beats: tuple[Beat, ...] = ()
        self._news = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def set_beats(self, beats: tuple[Beat, ...]) -> None:
        """Replaces what was sent until now."""
        self._beats = beats
        if self._thread is None and beats:
            self._thread = threading.Thread(target=self._run, name="flinkray-beats", daemon=True)
            self._thread.start()
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        sockets: dict[Endpoint, zmq.Socket] = {}
        while not self._closed:
            beats = self._beats
            for gone in sockets.keys() - {beat.peer for beat in beats}:
                sockets.pop(gone).close()
            for beat in beats:
                if beat.peer not in sockets:
                    sockets[beat.peer] = self._connect(beat.peer)
                sockets[beat.peer].send(beat.frame)
            self._news.wait(self._interval_s)
            self._news.clear()
        for socket in sockets.values():
            socket.close()
