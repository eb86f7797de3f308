"""The exchange between processes: ZeroMQ receives and sends in its own threads, the mailbox thread takes what has arrived.

One PULL socket per slot for peers on this host (ipc) and one for others (tcp), one PUSH socket per peer. Bounded by credits, not by
ZeroMQ's marks.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import zmq

from flinkray.errors import ProtocolError
from flinkray.exchange import zmq_sockets
from flinkray.exchange.base import (
    ChannelFailed,
    ChannelId,
    ChannelSpec,
    Endpoint,
    Exchange,
    InputChannel,
    OutputChannel,
)
from flinkray.exchange.beats import Beat, BeatThread
from flinkray.exchange.early import EarlyMessages, Message
from flinkray.exchange.frames import NO_PLACE, Header, Kind, header, headers, instance_bytes, place, token
from flinkray.exchange.liveness import PeerLiveness
from flinkray.exchange.queues import ElementQueue, QueueInput, QueueOutput
from flinkray.exchange.zmq_channels import Peer, ZmqInput, ZmqOutput


class ZmqExchange(Exchange):
    """The exchange of one slot.

    `instance`: 32 hexadecimal digits. `host`: node id, peers of the same one are reached by ipc. `address`: this node's address for
    other hosts, None for none. `folder`: for the ipc socket, made private. `encrypt`: CURVE on tcp.
    """

    def __init__(
        self,
        instance: str,
        host: str,
        address: str | None,
        folder: str,
        heartbeat_timeout_s: float,
        encrypt: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = instance_bytes(instance)
        self._timeout_s = heartbeat_timeout_s
        self._clock = clock
        self._keys = zmq_sockets.CurveKeys.fresh() if encrypt else None
        self._context = zmq.Context()
        self._folder = zmq_sockets.private_folder(folder, instance)
        self._folder_is_ours = self._folder != folder
        ipc_socket, ipc = zmq_sockets.bind_ipc(self._context, self._folder, instance)
        self._inbound, tcp = [ipc_socket], ""
        if address is not None:
            tcp_socket, tcp = zmq_sockets.bind_tcp(self._context, address, self._keys)
            self._inbound.append(tcp_socket)
        public_key = self._keys.public.decode() if self._keys is not None else ""
        self._endpoint = Endpoint(instance, host, ipc, tcp, public_key)
        self._poller, self._wake_fd = zmq.Poller(), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for source in (*self._inbound, self._wake_fd):
            self._poller.register(source, zmq.POLLIN)
        self._wake_lock = threading.Lock()
        self._closed = False
        self._beats = BeatThread(self._connect, heartbeat_timeout_s / 4)
        self._links: dict[Endpoint, zmq.Socket] = {}
        self._early = EarlyMessages()
        self._attempt = -1
        self._peers: dict[bytes, Peer] = {}
        self._outputs: dict[bytes, ZmqOutput] = {}
        self._inputs: dict[bytes, ZmqInput] = {}
        self._proofs: dict[bytes, bytes] = {}
        self._local_queues: list[ElementQueue] = []
        self._local_news = False
        self._failures: list[ChannelFailed] = []
        self._listened_s = clock()
        self.dropped_frames = 0
        """Messages that were of an older attempt, of an unknown sender, or no frames at all."""

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    # ------------------------------------------------------------------------------------------------ attempts

    def open(
        self, attempt: int, secret: bytes, outputs: Sequence[ChannelSpec], inputs: Sequence[ChannelSpec]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        if attempt <= self._attempt:
            raise ProtocolError(f"exchange of {self._endpoint.instance}: attempt {attempt} after attempt {self._attempt}")
        self._close_attempt()
        self._attempt = attempt
        self._open_peers(secret, {spec.peer for spec in (*outputs, *inputs)} - {self._endpoint})
        own = {spec.id for spec in (*outputs, *inputs) if spec.peer == self._endpoint}
        local = {channel: self._local_queue() for channel in own}
        opened_outputs: dict[ChannelId, OutputChannel] = {}
        opened_inputs: dict[ChannelId, InputChannel] = {}
        for spec in outputs:
            if spec.peer == self._endpoint:
                opened_outputs[spec.id] = QueueOutput(spec, local[spec.id])
            else:
                sending = ZmqOutput(spec, self._peers[instance_bytes(spec.peer.instance)])
                opened_outputs[spec.id] = self._outputs[place(spec.id)] = sending
        for spec in inputs:
            if spec.peer == self._endpoint:
                opened_inputs[spec.id] = QueueInput(spec, local[spec.id])
            else:
                taking = ZmqInput(spec, self._peers[instance_bytes(spec.peer.instance)])
                opened_inputs[spec.id] = self._inputs[place(spec.id)] = taking
        now_s = self._clock()
        for message in self._early.take(attempt):
            self._take_in(message, now_s)
        return opened_outputs, opened_inputs

    def _open_peers(self, secret: bytes, endpoints: set[Endpoint]) -> None:
        for gone in self._links.keys() - endpoints:
            self._links.pop(gone).close()
        beats, now_s = [], self._clock()
        for endpoint in endpoints:
            if endpoint not in self._links:
                self._links[endpoint] = self._connect(endpoint)
            other = instance_bytes(endpoint.instance)
            proof = token(secret, self._own, other)
            liveness = PeerLiveness(self._timeout_s, now_s)
            self._peers[other] = Peer(endpoint.instance, self._links[endpoint], self._attempt, self._own, proof, liveness)
            self._proofs[other] = token(secret, other, self._own)
            beats.append(Beat(endpoint, header(Kind.BEAT, NO_PLACE, self._attempt, 0, 0, self._own, proof)))
        self._beats.set_beats(tuple(beats))

    def _close_attempt(self) -> None:
        for queue in self._local_queues:
            queue.closed = True
        self._local_queues.clear()
        for peer in self._peers.values():
            peer.failed = True
        for known in (self._peers, self._proofs, self._outputs, self._inputs):
            known.clear()
        self._failures.clear()

    def _local_queue(self) -> ElementQueue:
        queue = ElementQueue()
        queue.consumer_news = queue.sender_news = self._set_local_news
        self._local_queues.append(queue)
        return queue

    def _set_local_news(self) -> None:
        self._local_news = True

    def _connect(self, endpoint: Endpoint) -> zmq.Socket:
        return zmq_sockets.connect(self._context, self._endpoint.host, endpoint, self._keys)

    # ------------------------------------------------------------------------------------------------ polling

    def poll(self, timeout_s: float) -> list[ChannelFailed]:
        for peer in self._peers.values():
            peer.flush()
        arrived = self._drain()
        if not (arrived or self._local_news or self._failures) and timeout_s > 0:
            self._wait(timeout_s)
            self._drain()
        self._local_news = False
        self._keep_alive()
        failures, self._failures = self._failures, []
        return failures

    def _wait(self, timeout_s: float) -> None:
        limit_s = min(timeout_s, self._timeout_s / 4) if self._peers else timeout_s
        ready = dict(self._poller.poll(math.ceil(limit_s * 1000)))
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)

    def _drain(self) -> bool:
        arrived, now_s = False, 0.0
        for socket in self._inbound:
            while _readable(socket):
                if not arrived:
                    arrived, now_s = True, self._clock()
                self._take_in(_receive(socket), now_s)
        return arrived

    def _keep_alive(self) -> None:
        """After a drain: judge silence, and say something to whom nothing was said for long."""
        now_s = self._clock()
        since_s, self._listened_s = self._listened_s, now_s
        for peer in self._peers.values():
            if peer.stirred:
                peer.stirred = False
                peer.liveness.sent(now_s)
                peer.liveness.expect(now_s)
            elif peer.liveness.ping_due(now_s):
                peer.put(Kind.PING)
                peer.flush()
                peer.stirred = False
                peer.liveness.sent(now_s)
            peer.liveness.absent(since_s, now_s)
            if (silence := peer.liveness.silence(now_s)) is not None:
                self._fail(peer, silence)

    # ------------------------------------------------------------------------------------------------ arrivals

    def _take_in(self, message: Message, now_s: float) -> None:
        try:
            frames = headers(message.head)
        except ProtocolError:
            self.dropped_frames += 1
            return
        first = frames[0]
        if first.attempt > self._attempt:
            if first.kind != Kind.BEAT and not self._early.keep(first.attempt, message):
                self.dropped_frames += 1
            return
        peer = self._peers.get(first.sender)
        if first.attempt < self._attempt or peer is None or not hmac.compare_digest(first.token, self._proofs[first.sender]):
            self.dropped_frames += 1
            return
        if peer.failed:
            return
        peer.liveness.heard(now_s)
        last = frames[-1]
        for frame in frames:
            self._take_frame(peer, frame, message.body if frame is last else None)

    def _take_frame(self, peer: Peer, frame: Header, body: pa.Buffer | None) -> None:
        if frame.kind == Kind.BEAT or peer.failed:
            return
        if (wrong := peer.arrivals.accept(frame.sequence)) is not None:
            self._fail(peer, wrong)
            return
        if frame.kind == Kind.PING:
            return
        channels = self._outputs if frame.kind == Kind.CREDIT else self._inputs
        channel = channels.get(frame.place)
        if channel is None:
            self._fail(peer, f"a frame of kind {frame.kind} for a channel that this slot does not have")
        elif isinstance(channel, ZmqOutput):
            channel.credit.grant(frame.value)
        else:
            try:
                channel.take_in(frame, body)
            except (ProtocolError, pa.ArrowException) as error:
                self._fail(peer, f"channel {channel.id}: {error}")

    def _fail(self, peer: Peer, reason: str) -> None:
        if not peer.failed:
            peer.failed = True
            self._failures.append(ChannelFailed(peer.instance, reason))

    # ------------------------------------------------------------------------------------------------ waking, closing

    def wake(self) -> None:
        with self._wake_lock:
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        if self._closed:
            return
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_fd)
        self._close_attempt()
        self._beats.close()
        self._context.destroy(linger=0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._endpoint.ipc.removeprefix("ipc://"))
        if self._folder_is_ours:
            shutil.rmtree(self._folder, ignore_errors=True)


def _receive(socket: zmq.Socket) -> Message:
    """One message. Its body is borrowed from ZeroMQ, not copied; parts beyond the second are nobody's."""
    head, body = socket.recv(), None
    if socket.get(zmq.RCVMORE):
        body = pa.py_buffer(socket.recv(copy=False))
        while socket.get(zmq.RCVMORE):
            socket.recv()
    return Message(head, body)


def _readable(socket: zmq.Socket) -> bool:
    return bool(socket.getsockopt(zmq.EVENTS) == zmq.POLLIN)
