from __future__ import annotations

import threading
import time

import pyarrow as pa
import pytest

from flinkray.errors import ProtocolError
from flinkray.exchange.base import Barrier, Batch, ChannelId, ChannelSpec, EndOfInput, Watermark
from flinkray.exchange.in_process import InProcessExchange, InProcessNetwork
from flinkray.ids import TaskId

CHANNEL = ChannelId(0, TaskId(0, 0), TaskId(1, 0))
SCHEMA = pa.schema([("x", pa.int64())])


def ints(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"x": pa.array(values, pa.int64())})


def two_slots() -> tuple[InProcessExchange, InProcessExchange]:
    network = InProcessNetwork()
    return InProcessExchange(network, "a" * 32), InProcessExchange(network, "b" * 32)


def spec(peer: InProcessExchange) -> ChannelSpec:
    return ChannelSpec(CHANNEL, peer.endpoint, SCHEMA)


def test_elements_cross_between_slots_in_order_whoever_opens_first() -> None:
    a, b = two_slots()
    outputs, _ = a.open(1, b"s", [spec(b)], [])
    outputs[CHANNEL].send(Batch(ints(1)))
    _, inputs = b.open(1, b"s", [], [spec(a)])
    outputs[CHANNEL].send(Watermark(3, idle=True))
    outputs[CHANNEL].send(Barrier(1))
    outputs[CHANNEL].send(EndOfInput())
    first = inputs[CHANNEL].pop()
    assert isinstance(first, Batch)
    assert first.data == ints(1)
    assert [inputs[CHANNEL].pop() for _ in range(3)] == [Watermark(3, idle=True), Barrier(1), EndOfInput()]


def test_a_slot_can_send_to_itself() -> None:
    a, _ = two_slots()
    outputs, inputs = a.open(1, b"s", [spec(a)], [spec(a)])
    outputs[CHANNEL].send(Watermark(1))
    assert inputs[CHANNEL].pop() == Watermark(1)


def test_an_older_attempt_is_cut_off_when_either_side_moves_on() -> None:
    a, b = two_slots()
    old_outputs, _ = a.open(1, b"s", [spec(b)], [])
    _, old_inputs = b.open(1, b"s", [], [spec(a)])
    _, new_inputs = b.open(2, b"s", [], [spec(a)])
    old_outputs[CHANNEL].send(Batch(ints(1)))
    assert old_inputs[CHANNEL].peek() is None
    new_outputs, _ = a.open(2, b"s", [spec(b)], [])
    new_outputs[CHANNEL].send(Batch(ints(2)))
    arrived = new_inputs[CHANNEL].pop()
    assert isinstance(arrived, Batch)
    assert arrived.data == ints(2)
    with pytest.raises(ProtocolError, match="attempt 2 after attempt 2"):
        a.open(2, b"s", [], [])


def test_nothing_is_kept_after_both_ends_closed() -> None:
    a, b = two_slots()
    a.open(1, b"s", [spec(b)], [])
    b.open(1, b"s", [], [spec(a)])
    a.close()
    b.close()
    assert not a._network._queues


def test_a_waiting_slot_is_woken_by_an_element_and_by_wake() -> None:
    a, b = two_slots()
    outputs, _ = a.open(1, b"s", [spec(b)], [])
    _, inputs = b.open(1, b"s", [], [spec(a)])
    for cause in (lambda: outputs[CHANNEL].send(Watermark(1)), b.wake):
        timer = threading.Timer(0.05, cause)
        timer.start()
        started = time.monotonic()
        assert b.poll(30.0) == []
        assert time.monotonic() - started < 20.0
        timer.join()
    assert inputs[CHANNEL].pop() == Watermark(1)


def test_two_threads_exchange_many_batches_under_back_pressure() -> None:
    a, b = two_slots()
    outputs, _ = a.open(1, b"s", [spec(b)], [])
    _, inputs = b.open(1, b"s", [], [spec(a)])
    batch = pa.RecordBatch.from_pydict({"x": pa.array(range(200_000), pa.int64())})

    def send() -> None:
        for _ in range(200):
            while not outputs[CHANNEL].ready:
                a.poll(10.0)
            outputs[CHANNEL].send(Batch(batch))
        outputs[CHANNEL].send(EndOfInput())

    sender = threading.Thread(target=send)
    sender.start()
    batches, most_bytes = 0, 0
    while True:
        most_bytes = max(most_bytes, inputs[CHANNEL].queued_bytes)
        if inputs[CHANNEL].peek() is None:
            b.poll(10.0)
        elif isinstance(inputs[CHANNEL].pop(), EndOfInput):
            break
        else:
            batches += 1
    sender.join()
    assert batches == 200
    assert most_bytes <= 8 * 1024 * 1024 + batch.nbytes
