"""PyFlink's DataStream API on CSV files, in Flink's environment: Python functions and Python state, row by row.

As in `flink_sql.py`: watermarks 4 s behind, seconds are the net run time (Python workers start anew with each job). CSV is parsed in Java.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime

from harness import Request, serve
from pyflink.common import Configuration, Duration, Row, Time, Types, WatermarkStrategy
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream import DataStream, KeyedProcessFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors.base import Sink
from pyflink.datastream.connectors.file_system import FileSource
from pyflink.datastream.formats.csv import CsvReaderFormat, CsvSchema
from pyflink.datastream.functions import AggregateFunction, ProcessAllWindowFunction, ProcessWindowFunction
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.datastream.window import EventTimeSessionWindows, SlidingEventTimeWindows, TumblingEventTimeWindows
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes

LONG = Types.LONG()
AUCTION, BIDDER, PRICE, DATE_TIME, EXTRA = range(5)
BID = Types.ROW([LONG, LONG, LONG, Types.STRING(), Types.STRING()])
CONVERTED = Types.ROW([LONG, LONG, Types.DOUBLE(), Types.STRING(), Types.STRING()])
COUNTED = Types.ROW([LONG, LONG, LONG, LONG])


class BidTime(TimestampAssigner):
    def extract_timestamp(self, value: Row, record_timestamp: int) -> int:
        return int(datetime.fromisoformat(value[DATE_TIME] + "+00:00").timestamp() * 1000)


class Count(AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Row, accumulator: int) -> int:
        return accumulator + 1

    def get_result(self, accumulator: int) -> int:
        return accumulator

    def merge(self, a: int, b: int) -> int:
        return a + b


class WithWindow(ProcessWindowFunction):
    def process(self, key: int, context: ProcessWindowFunction.Context, elements: Iterable[int]) -> Iterable[Row]:
        yield Row(key, next(iter(elements)), context.window().start, context.window().end)


class Highest(ProcessAllWindowFunction):
    """Rows with the largest value of one field."""

    def __init__(self, field: int) -> None:
        self._field = field

    def process(self, context: ProcessAllWindowFunction.Context, elements: Iterable[Row]) -> Iterable[Row]:
        rows = list(elements)
        most = max(row[self._field] for row in rows)
        yield from (row for row in rows if row[self._field] == most)


class RunningSum(KeyedProcessFunction):
    def open(self, runtime_context: RuntimeContext) -> None:
        self._sum = runtime_context.get_state(ValueStateDescriptor("sum", Types.LONG()))

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterable[Row]:
        total = (self._sum.value() or 0) + value[PRICE]
        self._sum.update(total)
        yield Row(ctx.get_current_key(), total)


def hot_items(bids: DataStream) -> DataStream:
    windows = bids.key_by(lambda row: row[AUCTION], LONG).window(SlidingEventTimeWindows.of(Time.seconds(10), Time.seconds(2)))
    counted = windows.aggregate(Count(), WithWindow(), accumulator_type=Types.LONG(), output_type=COUNTED)
    return counted.window_all(TumblingEventTimeWindows.of(Time.seconds(2))).process(Highest(1), COUNTED)


def sessions(bids: DataStream) -> DataStream:
    windows = bids.key_by(lambda row: row[BIDDER], LONG).window(EventTimeSessionWindows.with_gap(Time.seconds(10)))
    return windows.aggregate(Count(), WithWindow(), accumulator_type=Types.LONG(), output_type=COUNTED)


QUERIES = {
    "q0": lambda bids: bids,
    "q1": lambda bids: bids.map(lambda row: Row(row[0], row[1], 0.908 * row[2], row[3], row[4]), CONVERTED),
    "q2": lambda bids: bids.filter(lambda row: row[AUCTION] % 123 == 0).map(lambda row: Row(row[0], row[2]), Types.ROW([LONG, LONG])),
    "q5": hot_items,
    "q7": lambda bids: bids.window_all(TumblingEventTimeWindows.of(Time.seconds(10))).process(Highest(PRICE), BID),
    "q11": sessions,
    "sum": lambda bids: bids.key_by(lambda row: row[BIDDER], LONG).process(RunningSum(), Types.ROW([LONG, LONG])),
}


def run(query: str, request: Request) -> tuple[float, int | None]:
    """The sink drops every row."""
    configuration = Configuration()
    configuration.set_string("python.executable", sys.executable)
    configuration.set_string("python.client.executable", sys.executable)
    with tempfile.TemporaryDirectory() as checkpoints:
        if request["checkpoints"] is not None:
            configuration.set_string("execution.checkpointing.interval", request["checkpoints"])
            configuration.set_string("execution.checkpointing.dir", f"file://{checkpoints}")
        environment = StreamExecutionEnvironment.get_execution_environment(configuration)
        environment.set_parallelism(request["parallelism"])
        discard = get_gateway().jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink()
        QUERIES[query](bids_of(environment, request["files"]["bid"], query in ("q5", "q7", "q11"))).sink_to(Sink(discard))
        return environment.execute(query).get_net_runtime() / 1000, None


def bids_of(environment: StreamExecutionEnvironment, paths: list[str], timed: bool) -> DataStream:
    schema = CsvSchema.builder()
    for name in ("auction", "bidder", "price"):
        schema.add_number_column(name, DataTypes.BIGINT())
    for name in ("channel", "url", "date_time", "extra"):
        schema.add_string_column(name)
    source = FileSource.for_record_stream_format(CsvReaderFormat.for_schema(schema.build()), *paths).build()
    bids = environment.from_source(source, WatermarkStrategy.no_watermarks(), "bids")
    bids = bids.map(lambda row: Row(row[0], row[1], row[2], row[5], row[6]), BID)
    if timed:
        late = WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(4))
        bids = bids.assign_timestamps_and_watermarks(late.with_timestamp_assigner(BidTime()))
    return bids


if __name__ == "__main__":
    serve(run, QUERIES)
