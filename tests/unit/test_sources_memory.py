"""Sources that need no files: rows given in memory, and rows made from their number."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.connectors.datagen import DatagenSource, choice, random_float, random_int, sequence, timestamps
from flinkray.connectors.memory import MemorySource
from flinkray.errors import ConfigError, PlanError, UsageError
from flinkray.testing.connector_suite import SourceSuite, drain, rows_of

NUMBERS = np.arange(20_000)
TABLE = pa.table({"id": NUMBERS, "at": pa.array((NUMBERS * 7919) % 100_003, pa.int64()), "name": [f"n{i}" for i in NUMBERS]})


class TestMemorySource(SourceSuite):
    event_time_column = "at"

    def source(self, place: Path) -> MemorySource:
        return MemorySource(TABLE.to_batches(max_chunksize=3000))

    def expected(self) -> pa.Table:
        return TABLE


COLUMNS = {
    "id": sequence(5, 3),
    "user": random_int(-3, 4),
    "score": random_float(1.0, 2.0),
    "color": choice(["red", "green", None]),
    "at": timestamps("2024-01-01T00:00:00", "1ms", jitter="1s"),
}


class TestDatagenSource(SourceSuite):
    event_time_column = "at"

    def source(self, place: Path) -> DatagenSource:
        return DatagenSource(1000, COLUMNS, seed=7)

    def expected(self) -> pa.Table:
        return read_all(self.source(Path()), 1)


def read_all(source: DatagenSource, parallelism: int) -> pa.Table:
    splits = source.enumerator(None, None, parallelism).discover()
    return pa.Table.from_batches([b for s in splits for b in drain(source.open_split(s, None), 100)], source.schema())


def test_memory_rows_come_in_engine_types():
    source = MemorySource(pa.table({"at": pa.array([1], pa.timestamp("ms")), "s": pa.array(["x"]).dictionary_encode()}))
    assert source.schema() == pa.schema([("at", TIMESTAMP), ("s", pa.string())])
    (split,) = source.enumerator(None, "at", 2).discover()
    assert split.min_event_time_us == 1000


def test_no_rows_in_memory_are_no_splits_and_no_batch_is_an_error():
    source = MemorySource(pa.table({"a": pa.array([], pa.int64())}))
    assert source.enumerator(None, None, 2).discover() == []
    with pytest.raises(UsageError, match="no batch"):
        MemorySource([])
    with pytest.raises(ConfigError, match="rate=-1"):
        MemorySource(TABLE, rate=-1)
    with pytest.raises(PlanError, match="no column 'x'"):
        MemorySource(TABLE).with_columns(("x",))


@pytest.mark.parametrize("parallelism", [1, 3, 8])
def test_generated_rows_are_the_same_at_any_parallelism(parallelism):
    source = DatagenSource(1000, COLUMNS, seed=7)
    assert rows_of(read_all(source, parallelism)) == rows_of(read_all(source, 2))


def test_generated_values_are_what_their_generators_say():
    table = read_all(DatagenSource(10_000, COLUMNS, seed=1), 1)
    assert table["id"].to_pylist()[:3] == [5, 8, 11]
    assert set(table["user"].to_pylist()) == set(range(-3, 4))
    assert 1.0 <= pc.min(table["score"]).as_py() < 1.01
    assert 1.99 < pc.max(table["score"]).as_py() < 2.0
    counts = {row["values"]: row["counts"] for row in table["color"].value_counts().to_pylist()}
    assert set(counts) == {"red", "green", None}
    assert min(counts.values()) > 3000
    start = datetime(2024, 1, 1, tzinfo=UTC)
    behind = [1000 * i - (at - start).total_seconds() * 1e6 for i, at in enumerate(table["at"].to_pylist())]
    assert min(behind) >= -0.5
    assert 900_000 < max(behind) <= 1_000_000


def test_seed_and_name_make_the_values():
    def values(seed: int, name: str) -> list[int]:
        return read_all(DatagenSource(50, {name: random_int(0, 1 << 60)}, seed=seed), 1)[name].to_pylist()

    assert values(1, "a") == values(1, "a")
    assert values(1, "a") != values(2, "a")
    assert values(1, "a") != values(1, "b")


def test_rows_without_end_go_on_and_resume():
    source = DatagenSource(None, {"id": sequence()})
    assert not source.bounded
    first, second = source.enumerator(None, None, 2).discover()
    reader = source.open_split(second, None)
    assert reader.read(3)["id"].to_pylist() == [1, 3, 5]
    assert source.open_split(second, reader.offset()).read(2)["id"].to_pylist() == [7, 9]
    assert source.open_split(first, None).read(2)["id"].to_pylist() == [0, 2]


def test_wrong_arguments_say_which():
    with pytest.raises(ConfigError, match="rows=-1"):
        DatagenSource(-1, {"id": sequence()})
    with pytest.raises(ConfigError, match="columns is empty"):
        DatagenSource(1, {})
    with pytest.raises(ConfigError, match="rate=0"):
        DatagenSource(1, {"id": sequence()}, rate=0)
    with pytest.raises(ConfigError, match="high must be above low"):
        random_int(3, 3)
    with pytest.raises(ConfigError, match="at least one option"):
        choice([])
