from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flinkray.exchange.base import (
    Barrier,
    Batch,
    ChannelFailed,
    ChannelId,
    ChannelSpec,
    Element,
    EndOfInput,
    InputChannel,
    OutputChannel,
    Watermark,
)
from flinkray.exchange.credits import WINDOW_BYTES
from flinkray.exchange.zmq_exchange import ZmqExchange
from flinkray.ids import TaskId

CHANNEL = ChannelId(0, TaskId(0, 0), TaskId(1, 0))
SCHEMA = pa.schema([("x", pa.int64()), ("s", pa.string())])
A, B = "a" * 32, "b" * 32


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def batch(rows: int = 3, start: int = 0) -> pa.RecordBatch:
    values = range(start, start + rows)
    return pa.RecordBatch.from_pydict({"x": pa.array(values, pa.int64()), "s": [f"row {value}" for value in values]})


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ZmqExchange]]:
    made: list[ZmqExchange] = []

    def one(instance: str, host: str = "h", address: str | None = None, timeout_s: float = 1000.0, **options: object) -> ZmqExchange:
        exchange = ZmqExchange(instance, host, address, str(tmp_path / "x"), timeout_s, **options)  # type: ignore[arg-type]
        made.append(exchange)
        return exchange

    yield one
    for exchange in made:
        exchange.close()


def opened(a: ZmqExchange, b: ZmqExchange, attempt: int = 1, schema: pa.Schema | None = SCHEMA) -> tuple[OutputChannel, InputChannel]:
    outputs, _ = a.open(attempt, b"secret", [ChannelSpec(CHANNEL, b.endpoint, schema)], [])
    _, inputs = b.open(attempt, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, schema)])
    return outputs[CHANNEL], inputs[CHANNEL]


def until(what: Callable[[], bool], *exchanges: ZmqExchange) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        for exchange in exchanges:
            assert exchange.poll(0.005) == []


def take(channel: InputChannel, count: int, *exchanges: ZmqExchange) -> list[Element]:
    taken: list[Element] = []
    for _ in range(count):
        until(lambda: channel.peek() is not None, *exchanges)
        taken.append(channel.pop())
    return taken


def failure(*exchanges: ZmqExchange) -> ChannelFailed:
    """The first failure that any of them reports."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for exchange in exchanges:
            for failed in exchange.poll(0.005):
                return failed
    raise AssertionError("no failure was reported")


@pytest.mark.parametrize(("host", "address", "encrypt"), [("h", None, True), ("other", "127.0.0.1", True), ("other", "127.0.0.1", False)])
def test_elements_arrive_in_order(make: Callable[..., ZmqExchange], host: str, address: str | None, encrypt: bool) -> None:
    a, b = make(A, "h", address, encrypt=encrypt), make(B, host, address, encrypt=encrypt)
    output, taking = opened(a, b)
    sent = [Batch(batch(3)), Watermark(-5), Watermark(7, idle=True), Batch(batch(50_000)), Barrier(4), EndOfInput()]
    for element in sent:
        output.send(element)
    arrived = take(taking, len(sent), a, b)
    assert [type(element) for element in arrived] == [type(element) for element in sent]
    for got, expected in zip(arrived, sent, strict=True):
        if isinstance(got, Batch) and isinstance(expected, Batch):
            assert got.data.equals(expected.data)
            got.data.validate(full=True)
        else:
            assert got == expected
    assert taking.queued_bytes == 0


def test_buffers_of_arrived_batches_are_aligned_and_outlive_the_exchange(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    output, taking = opened(a, b)
    for rows in (1, 7, 100, 1000, 100_000):
        output.send(Batch(batch(rows + 5).slice(5)))
    arrived = [element.data for element in take(taking, 5, a, b) if isinstance(element, Batch)]
    a.close()
    b.close()
    for data in arrived:
        assert data.equals(batch(data.num_rows, start=5))
        assert all(buffer is None or buffer.address % 8 == 0 for column in data.columns for buffer in column.buffers())


def test_an_undeclared_schema_travels_before_the_first_batch_and_dictionaries_are_decoded(
    make: Callable[..., ZmqExchange],
) -> None:
    a, b = make(A), make(B)
    output, taking = opened(a, b, schema=None)
    words = pa.RecordBatch.from_pydict({"w": pa.array(["x", "y", "x"]).dictionary_encode()})
    output.send(Batch(words))
    output.send(Batch(words.slice(1)))
    first, second = take(taking, 2, a, b)
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert first.data.schema == pa.schema([("w", pa.string())])
    assert second.data.to_pydict() == {"w": ["y", "x"]}


def test_a_sender_without_credit_waits_for_the_consumer_to_take(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    output, taking = opened(a, b)
    big, sent = Batch(batch(100_000)), 0
    while output.ready:
        output.send(big)
        sent += 1
    until(lambda: taking.queued_bytes >= WINDOW_BYTES, a, b)
    assert not output.ready
    assert 1 < sent <= WINDOW_BYTES // big.data.nbytes + 1
    output.send(Barrier(1))
    for _ in range(sent):
        assert isinstance(taking.pop(), Batch)
    until(lambda: output.ready, b, a)
    assert take(taking, 1, a, b) == [Barrier(1)]


def test_channels_within_a_slot_hand_over_the_batch_itself(make: Callable[..., ZmqExchange]) -> None:
    a = make(A)
    spec = ChannelSpec(CHANNEL, a.endpoint, SCHEMA)
    outputs, inputs = a.open(1, b"secret", [spec], [spec])
    data = batch()
    outputs[CHANNEL].send(Batch(data))
    started = time.monotonic()
    assert a.poll(30.0) == []
    assert time.monotonic() - started < 20.0, "there was news"
    arrived = inputs[CHANNEL].pop()
    assert isinstance(arrived, Batch)
    assert arrived.data is data


def test_frames_of_an_older_attempt_are_dropped(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    output, _ = opened(a, b, attempt=1)
    b_outputs_inputs = b.open(2, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, SCHEMA)])
    dropped = b.dropped_frames
    output.send(Batch(batch()))
    until(lambda: b.dropped_frames > dropped, a, b)
    new_outputs, _ = a.open(2, b"secret", [ChannelSpec(CHANNEL, b.endpoint, SCHEMA)], [])
    new_outputs[CHANNEL].send(Barrier(2))
    assert take(b_outputs_inputs[1][CHANNEL], 1, a, b) == [Barrier(2)]


def test_frames_of_a_newer_attempt_wait_until_it_is_opened(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    opened(a, b, attempt=1)
    outputs, _ = a.open(2, b"secret", [ChannelSpec(CHANNEL, b.endpoint, SCHEMA)], [])
    outputs[CHANNEL].send(Watermark(1))
    outputs[CHANNEL].send(Batch(batch()))
    until(lambda: len(b._early._kept) == 1, a, b)
    _, inputs = b.open(2, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, SCHEMA)])
    outputs[CHANNEL].send(Barrier(1))
    first, second, third = take(inputs[CHANNEL], 3, a, b)
    assert (first, third) == (Watermark(1), Barrier(1))
    assert isinstance(second, Batch)


def test_a_peer_with_another_secret_is_not_heard(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    outputs, _ = a.open(1, b"wrong", [ChannelSpec(CHANNEL, b.endpoint, SCHEMA)], [])
    _, inputs = b.open(1, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, SCHEMA)])
    for checkpoint in (1, 2):
        dropped = b.dropped_frames
        outputs[CHANNEL].send(Barrier(checkpoint))
        a.poll(0.0)
        until(lambda: b.dropped_frames > dropped, a, b)  # noqa: B023
    assert inputs[CHANNEL].peek() is None


def test_a_lost_frame_is_found_by_the_next(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    output, _ = opened(a, b)
    output.send(Watermark(1))
    a._peers[bytes.fromhex(B)]._waiting.clear()
    output.send(Watermark(2))
    failed = failure(a, b)
    assert failed.peer_instance == A
    assert "gap: frame 1 came where 0 was expected" in failed.reason
    output.send(Watermark(3))
    for _ in range(3):
        assert a.poll(0.005) == []
        assert b.poll(0.005) == [], "said once"


def test_a_lost_last_frame_is_found_by_the_keep_alive(make: Callable[..., ZmqExchange]) -> None:
    clock = Clock()
    a, b = make(A, timeout_s=100.0, clock=clock), make(B, timeout_s=100.0, clock=clock)
    output, _ = opened(a, b)
    output.send(Barrier(1))
    a._peers[bytes.fromhex(B)]._waiting.clear()
    clock.now_s += 26.0
    assert "gap" in failure(a, b).reason


def test_a_frame_that_comes_twice_is_found(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    output, _ = opened(a, b)
    output.send(Watermark(1))
    peer = a._peers[bytes.fromhex(B)]
    peer._waiting.append(peer._waiting[0])
    assert "repeat" in failure(a, b).reason


def test_a_silent_peer_is_reported_to_both_sides_of_a_channel(make: Callable[..., ZmqExchange]) -> None:
    clock = Clock()
    a, b = make(A, timeout_s=3.0, clock=clock), make(B, timeout_s=3.0)
    output, taking = opened(a, b)
    output.send(Watermark(1))
    take(taking, 1, a, b)
    b.close()
    a.poll(0.0)
    for _ in range(4):
        clock.now_s += 1.0
        failures = a.poll(0.0)
    assert [failed.peer_instance for failed in failures] == [B]
    assert "silence" in failures[0].reason


def test_nobody_is_silent_before_the_first_contact(make: Callable[..., ZmqExchange]) -> None:
    clock = Clock()
    a, b = make(A, timeout_s=3.0, clock=clock), make(B, timeout_s=3.0)
    a.open(1, b"secret", [ChannelSpec(CHANNEL, b.endpoint, SCHEMA)], [])
    for _ in range(100):
        clock.now_s += 1.0
        assert a.poll(0.0) == []


def test_a_slot_at_work_on_a_long_batch_is_alive(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A, timeout_s=0.4), make(B, timeout_s=0.4)
    output, taking = opened(a, b)
    output.send(Watermark(1))
    take(taking, 1, a, b)
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        assert b.poll(0.02) == [], "a does not poll, yet beats"
    output.send(Watermark(2))
    assert take(taking, 1, a, b) == [Watermark(2)]


def test_a_body_that_is_no_batch_fails_the_channel_with_a_reason(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    outputs, _ = a.open(1, b"secret", [ChannelSpec(CHANNEL, b.endpoint, SCHEMA)], [])
    b.open(1, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, pa.schema([("x", pa.list_(pa.string()))] * 3))])
    outputs[CHANNEL].send(Batch(batch()))
    assert "channel ChannelId" in failure(a, b).reason


def test_a_frame_for_an_unknown_channel_fails_the_peer(make: Callable[..., ZmqExchange]) -> None:
    a, b = make(A), make(B)
    other = ChannelId(9, TaskId(0, 0), TaskId(1, 0))
    outputs, _ = a.open(1, b"secret", [ChannelSpec(other, b.endpoint, SCHEMA)], [])
    b.open(1, b"secret", [], [ChannelSpec(CHANNEL, a.endpoint, SCHEMA)])
    outputs[other].send(Barrier(1))
    assert "does not have" in failure(a, b).reason


def test_wake_ends_a_wait_from_another_thread_and_is_harmless_after_close(make: Callable[..., ZmqExchange]) -> None:
    a = make(A)
    timer = threading.Timer(0.05, a.wake)
    timer.start()
    started = time.monotonic()
    assert a.poll(30.0) == []
    assert time.monotonic() - started < 20.0
    timer.join()
    a.close()
    a.wake()
    a.close()


def test_the_folder_of_the_socket_is_private_and_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    plain, deep = tmp_path / "x", tmp_path / ("d" * 120)
    plain.mkdir(mode=0o755)
    for folder in (plain, deep):
        exchange = ZmqExchange(A, "h", None, str(folder), 3.0)
        path = exchange.endpoint.ipc.removeprefix("ipc://")
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        exchange.close()
        assert not os.path.exists(path)
    assert not os.path.exists(os.path.dirname(path)), "the folder made for it is gone"
