"""Sentinels between the rows of an input: a crash once, a pause, the end."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.connectors.base import Source
from flinkray.errors import UsageError
from flinkray.testing.connector_suite import SourceSuite
from flinkray.testing.sentinel_source import Crash, End, Pause, SentinelError, SentinelSource


def rows(start: int, stop: int) -> pa.RecordBatch:
    return pa.record_batch({"n": list(range(start, stop)), "word": [f"w{n}" for n in range(start, stop)]})


class TestSentinelSource(SourceSuite):
    def source(self, place: Path) -> Source:
        return SentinelSource([[rows(0, 30), Pause(0.0), rows(30, 47)], [rows(50, 60), End(), rows(90, 99)]], str(place))

    def expected(self) -> pa.Table:
        return pa.Table.from_batches([rows(0, 47), rows(50, 60)])


def reader_of(source: SentinelSource, offset: object = None):
    return source.open_split(source.enumerator(None, None, 1).discover()[0], offset)


def test_a_crash_happens_once_between_the_rows_around_it(tmp_path: Path) -> None:
    source = SentinelSource([rows(0, 3), Crash(kill=False), rows(3, 5)], str(tmp_path))
    reader = reader_of(source)
    assert reader.read(10).num_rows == 3, "a batch does not reach over a sentinel"
    offset = reader.offset()
    with pytest.raises(SentinelError):
        reader.read(10)
    again = reader_of(source, offset)
    assert again.read(10).column("n").to_pylist() == [3, 4]
    assert again.read(10) is None


def test_a_pause_gives_no_rows_until_the_file_is_there(tmp_path: Path) -> None:
    gate = tmp_path / "go-on"
    reader = reader_of(SentinelSource([rows(0, 1), Pause(until=str(gate)), rows(1, 2)], str(tmp_path)))
    assert [reader.read(10).num_rows for _ in range(3)] == [1, 0, 0]
    gate.touch()
    assert reader.read(10).column("n").to_pylist() == [1]


def test_a_job_survives_the_crash_in_its_input(tmp_path: Path) -> None:
    checkpointing = fr.Checkpointing(storage=f"file://{tmp_path}/checkpoints", interval="50ms", min_pause="0s")
    env = fr.StreamEnvironment("sentinels", runtime="local", checkpointing=checkpointing, restart=fr.RestartStrategy(initial="1ms"))
    source = SentinelSource([rows(0, 3), Crash(kill=False), rows(3, 5), End(), rows(5, 9)], str(tmp_path / "place"))
    env.from_source(source, uid="read").sink_to(fr.sinks.Json(str(tmp_path / "out")), uid="written")
    result = env.execute()
    assert result.restarts == 1
    written = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("*.json*")))
    assert sorted(json.loads(line)["n"] for line in written.splitlines()) == [0, 1, 2, 3, 4]


def test_a_script_needs_rows_of_one_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rows"):
        SentinelSource([Crash()], str(tmp_path))
    with pytest.raises(UsageError, match="columns of the first"):
        SentinelSource([rows(0, 1), pa.record_batch({"other": [1]})], str(tmp_path))
