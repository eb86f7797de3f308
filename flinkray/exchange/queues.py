"""A channel inside one process: batches are handed over, not copied.

One thread sends and one consumes. Each side writes only its own counter, and writes it before it reads the other's, so that one of
the two always sees that the other has to be woken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flinkray.exchange.base import Batch, ChannelSpec, Element, InputChannel, OutputChannel
from flinkray.exchange.credits import WINDOW_BYTES
from flinkray.exchange.wire_schema import WireSchema

News = Callable[[], None]
"""Tells a side's exchange that a waiting `poll` has a reason to return."""


def no_news() -> None:
    """For a side that has not opened its end yet."""


class ElementQueue:
    """What the two ends share."""

    def __init__(self) -> None:
        self.elements: deque[tuple[Element, int]] = deque()
        self.sent_bytes = 0
        self.taken_bytes = 0
        self.closed = False
        self.consumer_news: News = no_news
        self.sender_news: News = no_news


class QueueOutput(OutputChannel):
    def __init__(self, spec: ChannelSpec, queue: ElementQueue) -> None:
        self.id = spec.id
        self._queue = queue
        self._wire = WireSchema(spec.id, spec.schema)

    @property
    def ready(self) -> bool:
        return self._queue.sent_bytes - self._queue.taken_bytes < WINDOW_BYTES

    def send(self, element: Element) -> None:
        queue = self._queue
        if queue.closed:
            return
        size_bytes = 0
        if isinstance(element, Batch):
            fitting = self._wire.fit(element.data)
            element = element if fitting is element.data else Batch(fitting)
            size_bytes = fitting.nbytes
        queue.elements.append((element, size_bytes))
        queue.sent_bytes += size_bytes
        queue.consumer_news()


class QueueInput(InputChannel):
    def __init__(self, spec: ChannelSpec, queue: ElementQueue) -> None:
        self.id = spec.id
        self._queue = queue

    @property
    def queued_bytes(self) -> int:
        return self._queue.sent_bytes - self._queue.taken_bytes

    def peek(self) -> Element | None:
        elements = self._queue.elements
        return elements[0][0] if elements else None

    def pop(self) -> Element:
        queue = self._queue
        element, size_bytes = queue.elements.popleft()
        if size_bytes:
            queue.taken_bytes += size_bytes
            if queue.sent_bytes - queue.taken_bytes + size_bytes >= WINDOW_BYTES:
                queue.sender_news()
        return element
