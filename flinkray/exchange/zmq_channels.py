"""One peer slot in one attempt, and the channels to and from it."""

from __future__ import annotations

from collections import deque

import pyarrow as pa
import zmq

from flinkray.errors import ProtocolError
from flinkray.exchange.base import (
    Barrier,
    Batch,
    ChannelSpec,
    Element,
    EndOfInput,
    InputChannel,
    OutputChannel,
    Watermark,
)
from flinkray.exchange.credits import ConsumerCredit, SenderCredit
from flinkray.exchange.frames import HEADER_BYTES, NO_PLACE, Header, Kind, header, pack_barrier, place, unpack_barrier
from flinkray.exchange.liveness import PeerLiveness, SequenceCheck
from flinkray.exchange.wire_schema import WireSchema, plain_schema

_COPY_BELOW_BYTES = 1 << 20
"""Smaller bodies are copied into ZeroMQ: a tenth of a millisecond, and cheaper than the hand-back of a borrowed buffer, which wakes a thread that wants
the GIL (and takes 10 ms to start)."""


class Peer:
    """Frames to another slot, in order; what is small waits for the next flush."""

    def __init__(self, instance: str, socket: zmq.Socket, attempt: int, sender: bytes, proof: bytes, liveness: PeerLiveness) -> None:
        self.instance = instance
        self.liveness = liveness
        self.arrivals = SequenceCheck()
        self.failed = False
        self.stirred = False
        """Something went out since the clock was looked at last."""
        self._socket = socket
        self._identity = (sender, proof)
        self._attempt = attempt
        self._sequence = 0
        self._waiting: list[bytes] = []

    def put(self, kind: Kind, place: bytes = NO_PLACE, value: int = 0) -> None:
        """Queue a frame without a body."""
        self._waiting.append(header(kind, place, self._attempt, self._sequence, value, *self._identity))
        self._sequence += 1

    def send_body(self, kind: Kind, place: bytes, body: pa.Buffer) -> None:
        """Send a frame with a body, behind all that waits."""
        self.put(kind, place)
        if self.failed:
            self._waiting.clear()
            return
        self._socket.send(self._joined(), zmq.SNDMORE)
        self._socket.send(body, copy=body.size < _COPY_BELOW_BYTES)

    def flush(self) -> None:
        if self._waiting:
            waiting = self._joined()
            if not self.failed:
                self._socket.send(waiting)

    def _joined(self) -> bytes:
        self.stirred = True
        waiting = b"".join(self._waiting)
        self._waiting.clear()
        return waiting


class ZmqOutput(OutputChannel):
    def __init__(self, spec: ChannelSpec, peer: Peer) -> None:
        self.id = spec.id
        self.credit = SenderCredit()
        self._peer = peer
        self._place = place(spec.id)
        self._wire = WireSchema(spec.id, spec.schema)
        self._schema_sent = spec.schema is not None

    @property
    def ready(self) -> bool:
        return self.credit.ready

    def send(self, element: Element) -> None:
        match element:
            case Batch():
                self._send_batch(element.data)
            case Watermark():
                self._peer.put(Kind.IDLE_WATERMARK if element.idle else Kind.WATERMARK, self._place, element.us)
            case Barrier():
                self._peer.put(Kind.BARRIER, self._place, pack_barrier(element))
            case EndOfInput():
                self._peer.put(Kind.END, self._place)

    def _send_batch(self, data: pa.RecordBatch) -> None:
        data = self._wire.fit(data)
        if not self._schema_sent:
            self._peer.send_body(Kind.SCHEMA, self._place, data.schema.serialize())
            self._schema_sent = True
        body = data.serialize()
        self.credit.spend(HEADER_BYTES + body.size)
        self._peer.send_body(Kind.BATCH, self._place, body)


class ZmqInput(InputChannel):
    def __init__(self, spec: ChannelSpec, peer: Peer) -> None:
        self.id = spec.id
        self._peer = peer
        self._place = place(spec.id)
        self._schema = None if spec.schema is None else plain_schema(spec.schema)
        self._credit = ConsumerCredit()
        self._elements: deque[tuple[Element, int]] = deque()
        self._queued_bytes = 0

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    def peek(self) -> Element | None:
        return self._elements[0][0] if self._elements else None

    def pop(self) -> Element:
        element, size_bytes = self._elements.popleft()
        if size_bytes:
            self._queued_bytes -= size_bytes
            grant = self._credit.consumed(size_bytes)
            if grant:
                self._peer.put(Kind.CREDIT, self._place, grant)
        return element

    def take_in(self, frame: Header, body: pa.Buffer | None) -> None:
        """A frame has arrived. Raises ProtocolError or pa.ArrowInvalid when it is no frame of this channel."""
        if frame.kind == Kind.BATCH:
            self._take_batch(body)
        elif frame.kind == Kind.SCHEMA:
            self._schema = pa.ipc.read_schema(body)
        elif frame.kind == Kind.WATERMARK or frame.kind == Kind.IDLE_WATERMARK:
            self._elements.append((Watermark(frame.value, frame.kind == Kind.IDLE_WATERMARK), 0))
        elif frame.kind == Kind.BARRIER:
            self._elements.append((unpack_barrier(frame.value), 0))
        elif frame.kind == Kind.END:
            self._elements.append((EndOfInput(), 0))
        else:
            raise ProtocolError(f"frame of unknown kind {frame.kind}")

    def _take_batch(self, body: pa.Buffer | None) -> None:
        if body is None or self._schema is None:
            raise ProtocolError("a batch came without body or before its schema")
        size_bytes = HEADER_BYTES + body.size
        data = pa.ipc.read_record_batch(_aligned(body), self._schema)
        self._elements.append((Batch(data), size_bytes))
        self._queued_bytes += size_bytes


def _aligned(body: pa.Buffer) -> pa.Buffer:
    """ZeroMQ puts small messages anywhere; kernels want 8 bytes."""
    return body if body.address % 8 == 0 else pa.py_buffer(body.to_pybytes())
