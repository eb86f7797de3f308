from __future__ import annotations

import pyarrow as pa
import pytest

from flinkray.errors import OperatorError, ProtocolError
from flinkray.exchange.base import Barrier, Batch, ChannelId, ChannelSpec, Element, Endpoint, Watermark
from flinkray.exchange.coalesce import coalesce
from flinkray.exchange.credits import GRANT_BYTES, WINDOW_BYTES, ConsumerCredit, SenderCredit
from flinkray.exchange.early import EarlyMessages, Message
from flinkray.exchange.frames import NO_PLACE, Kind, header, headers, instance_bytes, place, token
from flinkray.exchange.liveness import PeerLiveness, SequenceCheck
from flinkray.exchange.queues import ElementQueue, QueueInput, QueueOutput
from flinkray.exchange.wire_schema import WireSchema
from flinkray.ids import TaskId

CHANNEL = ChannelId(3, TaskId(1, 2), TaskId(4, 70_00))


def ints(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"x": pa.array(values, pa.int64())})


def queue_pair(schema: pa.Schema | None = None) -> tuple[QueueOutput, QueueInput]:
    spec, queue = ChannelSpec(CHANNEL, Endpoint("a" * 32, "h"), schema), ElementQueue()
    return QueueOutput(spec, queue), QueueInput(spec, queue)


# ---------------------------------------------------------------------------------------------------- credits


def test_a_sender_may_overdraw_by_one_batch_and_waits_then() -> None:
    credit = SenderCredit(100)
    credit.spend(99)
    assert credit.ready
    credit.spend(500)
    assert not credit.ready
    credit.grant(599)
    assert credit.available_bytes == 100


def test_credit_is_given_back_in_portions_and_never_lost() -> None:
    credit = ConsumerCredit(grant_bytes=100)
    grants = [credit.consumed(30) for _ in range(10)]
    assert [grant for grant in grants if grant] == [120, 120]
    assert sum(grants) + credit.owed_bytes == 300


def test_a_sender_never_waits_for_credit_that_the_consumer_holds_back() -> None:
    for batch_bytes in (1, GRANT_BYTES - 1, GRANT_BYTES, WINDOW_BYTES, 3 * WINDOW_BYTES):
        sender, consumer = SenderCredit(), ConsumerCredit()
        in_flight = 0
        for _ in range(100):
            while sender.ready and in_flight < 20:
                sender.spend(batch_bytes)
                in_flight += 1
            while in_flight:
                in_flight -= 1
                sender.grant(consumer.consumed(batch_bytes))
            assert sender.ready


# ---------------------------------------------------------------------------------------------------- liveness


def test_sequence_check_tells_gap_from_repeat() -> None:
    check = SequenceCheck()
    assert check.accept(0) is None
    assert check.accept(1) is None
    assert "gap" in str(check.accept(3))
    assert "repeat" in str(check.accept(1))
    assert check.accept(2) is None


def test_silence_counts_only_from_the_first_contact() -> None:
    liveness = PeerLiveness(3.0, now_s=0.0)
    assert liveness.silence(1000.0) is None
    liveness.expect(1000.0)
    assert liveness.silence(1003.0) is None
    assert "silence" in str(liveness.silence(1003.1))
    liveness.heard(1004.0)
    assert liveness.silence(1006.0) is None


def test_a_peer_is_not_blamed_for_our_own_absence() -> None:
    liveness = PeerLiveness(3.0, now_s=0.0)
    liveness.heard(0.0)
    liveness.absent(since_s=0.1, now_s=60.0)
    assert liveness.silence(60.0) is None
    liveness.absent(since_s=60.0, now_s=60.1)
    assert liveness.silence(61.6) is not None, "half a timeout later it is silent indeed"


def test_a_ping_is_due_a_quarter_of_the_timeout_after_the_last_frame() -> None:
    liveness = PeerLiveness(4.0, now_s=10.0)
    assert not liveness.ping_due(10.9)
    assert liveness.ping_due(11.0)
    liveness.sent(11.0)
    assert not liveness.ping_due(11.9)


# ---------------------------------------------------------------------------------------------------- frames


def test_headers_of_one_part_come_back_in_order() -> None:
    sender, proof = bytes(range(16)), token(b"secret", bytes(16), bytes(range(16)))
    where = place(CHANNEL)
    part = header(Kind.WATERMARK, where, 7, 0, -(2**63), sender, proof) + header(Kind.PING, NO_PLACE, 7, 1, 0, sender, proof)
    first, second = headers(part)
    assert (first.kind, first.place, first.attempt, first.sequence, first.value) == (
        Kind.WATERMARK,
        where,
        7,
        0,
        -(2**63),
    )
    assert (second.kind, second.sequence, second.sender, second.token) == (Kind.PING, 1, sender, proof)


@pytest.mark.parametrize("part", [b"", b"x", b"x" * 72, b"GET / HTTP/1.1\r\n"])
def test_what_is_no_frame_is_refused(part: bytes) -> None:
    with pytest.raises(ProtocolError):
        headers(part)


def test_a_token_holds_for_one_direction_of_one_pair() -> None:
    a, b = b"a" * 16, b"b" * 16
    assert len({token(b"s", a, b), token(b"s", b, a), token(b"s", a, a), token(b"other", a, b)}) == 4


def test_an_instance_is_32_hexadecimal_digits() -> None:
    assert instance_bytes("0f" * 16) == b"\x0f" * 16
    for wrong in ("", "0f", "zz" * 16, "0f" * 17):
        with pytest.raises(ProtocolError, match="32 hexadecimal"):
            instance_bytes(wrong)


def test_early_messages_are_bounded_and_come_back_in_order() -> None:
    early = EarlyMessages(limit_bytes=100, limit_messages=4)
    messages = [Message(bytes([i]) * 20, None) for i in range(6)]
    kept = [early.keep(attempt, message) for attempt, message in zip((2, 1, 2, 3, 2, 2), messages, strict=True)]
    assert kept == [True, True, True, True, False, False]
    assert early.take(2) == [messages[0], messages[2]]
    assert early.take(3) == [messages[3]]
    assert early.keep(4, Message(b"x" * 90, None)), "room is free again"


# ---------------------------------------------------------------------------------------------------- schema


def test_dictionaries_are_decoded_at_any_depth() -> None:
    words = pa.array(["a", "b", "a", None]).dictionary_encode()
    nested = pa.ListArray.from_arrays(pa.array([0, 2, 3, 3, 4]), words)
    batch = pa.RecordBatch.from_pydict({"w": words, "n": nested})
    fitted = WireSchema(CHANNEL, batch.schema).fit(batch)
    assert fitted.schema.types == [pa.string(), pa.list_(pa.string())]
    assert fitted.to_pydict() == {"w": ["a", "b", "a", None], "n": [["a", "b"], ["a"], [], [None]]}


def test_columns_in_another_order_are_put_right_and_a_fitting_batch_is_not_touched() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    wire = WireSchema(CHANNEL, schema)
    turned = pa.RecordBatch.from_pydict({"b": ["x"], "a": [1]})
    fitted = wire.fit(turned)
    assert fitted.schema == schema
    assert wire.fit(fitted) is fitted


def test_the_first_batch_fixes_an_undeclared_schema() -> None:
    wire = WireSchema(CHANNEL, None)
    wire.fit(ints(1))
    with pytest.raises(OperatorError, match=r"edge 3 from task 1\.2 to task 4.7000: column 'x' is double, expected int64"):
        wire.fit(pa.RecordBatch.from_pydict({"x": [1.5]}))
    with pytest.raises(OperatorError, match="the columns are others"):
        wire.fit(pa.RecordBatch.from_pydict({"y": [1]}))


# ---------------------------------------------------------------------------------------------------- queues, coalescing


def test_a_queue_keeps_order_and_counts_bytes() -> None:
    output, taking = queue_pair()
    batch = ints(1, 2, 3)
    for element in (Batch(batch), Watermark(5), Barrier(1)):
        output.send(element)
    assert taking.queued_bytes == batch.nbytes
    first = taking.pop()
    assert isinstance(first, Batch)
    assert first.data is batch, "handed over, not copied"
    assert taking.queued_bytes == 0
    assert [taking.pop(), taking.pop()] == [Watermark(5), Barrier(1)]
    assert taking.peek() is None


def test_a_full_queue_stops_batches_only_and_wakes_the_sender_when_there_is_room() -> None:
    output, taking = queue_pair()
    woken: list[int] = []
    output._queue.sender_news = lambda: woken.append(1)
    big = pa.RecordBatch.from_pydict({"x": pa.array(range(WINDOW_BYTES // 32), pa.int64())})
    sent = 0
    while output.ready:
        output.send(Batch(big))
        sent += 1
    assert sent == 4
    output.send(Watermark(1))
    assert taking.queued_bytes >= WINDOW_BYTES
    taking.pop()
    assert output.ready
    assert woken == [1]
    taking.pop()
    assert woken == [1], "woken once, when it mattered"


def filled(*elements: Element) -> QueueInput:
    output, taking = queue_pair()
    for element in elements:
        output.send(element)
    return taking


def test_small_batches_are_put_together_up_to_the_limit() -> None:
    taking = filled(*(Batch(ints(i, i)) for i in range(5)))
    assert coalesce(taking, 6).data.to_pydict() == {"x": [0, 0, 1, 1, 2, 2]}
    assert coalesce(taking, 6).data.to_pydict() == {"x": [3, 3, 4, 4]}


def test_coalescing_stops_at_a_watermark_or_barrier() -> None:
    taking = filled(Batch(ints(1)), Batch(ints(2)), Barrier(9), Batch(ints(3)))
    assert coalesce(taking, 100).data.num_rows == 2
    assert taking.pop() == Barrier(9)
    assert coalesce(taking, 100).data.to_pydict() == {"x": [3]}


def test_a_large_batch_is_passed_through_untouched() -> None:
    large = ints(*range(60))
    taking = filled(Batch(large), Batch(ints(1)))
    assert coalesce(taking, 100).data is large


def test_coalescing_something_else_than_a_batch_is_a_defect() -> None:
    with pytest.raises(ProtocolError, match="no batch"):
        coalesce(filled(Watermark(1)), 10)
