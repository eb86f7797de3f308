"""Channels between tasks. A channel is a pair of subtasks of one edge; it carries elements in order, with credits in bytes.

An exchange belongs to one slot and is used from its mailbox thread only, except `wake`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from flinkray.ids import TaskId


@dataclass(frozen=True)
class Batch:
    data: pa.RecordBatch


@dataclass(frozen=True)
class Watermark:
    us: int
    idle: bool = False
    """The sender is idle: leave it out of the minimum until its next element."""


@dataclass(frozen=True)
class Barrier:
    """Rows before it belong to `checkpoint`, rows after it do not. Carries what the trigger said, to every task at the same point."""

    checkpoint: int
    base: int | None = None
    """Newest checkpoint that a delta may refer to."""
    store: bool = True
    last: bool = False
    """Sources read nothing after it."""


@dataclass(frozen=True)
class EndOfInput:
    pass


Element = Batch | Watermark | Barrier | EndOfInput


@dataclass(frozen=True, order=True)
class ChannelId:
    edge: int
    source: TaskId
    target: TaskId


@dataclass(frozen=True)
class Endpoint:
    """Where a slot's exchange listens. `instance` is the TaskManager's."""

    instance: str
    host: str
    """Node id; equal hosts may use ipc."""
    ipc: str = ""
    tcp: str = ""
    public_key: str = ""


@dataclass(frozen=True)
class ChannelSpec:
    id: ChannelId
    peer: Endpoint
    """The other side's slot."""
    schema: pa.Schema | None
    """None: the first frame carries it."""


@dataclass(frozen=True)
class ChannelFailed:
    """A gap, a repeat, or silence beyond the heartbeat timeout (rule 23)."""

    peer_instance: str
    reason: str


class OutputChannel(ABC):
    id: ChannelId

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Credit is left: a batch may be sent. One batch may overdraw."""

    @abstractmethod
    def send(self, element: Element) -> None:
        """In order. Only batches cost credit; watermarks, barriers and the end always pass."""


class InputChannel(ABC):
    id: ChannelId

    @property
    @abstractmethod
    def queued_bytes(self) -> int: ...

    @abstractmethod
    def peek(self) -> Element | None: ...

    @abstractmethod
    def pop(self) -> Element:
        """Take the next element; a batch's credit goes back to the sender."""


class Exchange(ABC):
    @property
    @abstractmethod
    def endpoint(self) -> Endpoint: ...

    @abstractmethod
    def open(
        self, attempt: int, secret: bytes, outputs: Sequence[ChannelSpec], inputs: Sequence[ChannelSpec]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        """New channels for an attempt; those of older attempts are closed and their frames dropped. Channels to the own endpoint are
        in-process queues. `secret` is the job's, for peers to know each other."""

    @abstractmethod
    def poll(self, timeout_s: float) -> list[ChannelFailed]:
        """Take in what has arrived; wait at most `timeout_s` if there is nothing. Also flushes credits and keep-alives."""

    @abstractmethod
    def wake(self) -> None:
        """Make a waiting `poll` return. From any thread."""

    @abstractmethod
    def close(self) -> None: ...
