"""State of process functions read back as a table, against what DuckDB says of the rows that the checkpoint had taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

import flinkray as fr
from tests.golden import oracle
from tests.golden.test_state_tables import APP, rows_of, storage, taken


class Seen(fr.KeyedProcessFunction):
    """Counts the bids of a bidder, keeps the highest, and forgets who has bid an even number of times."""

    output_schema = {"bidder": "int64"}
    input_columns = ("price",)
    bids = fr.ValueState("bids", int)
    odd = fr.ValueState("odd", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.bids.value = (self.bids.value or 0) + 1
        if self.bids.value % 2:
            self.odd.value = max(row["price"], 0)
        else:
            self.odd.clear()


def test_a_row_for_each_key_and_a_column_for_each_state(tmp_path: Path) -> None:
    taken(tmp_path, lambda bids: bids.key_by("bidder").process(Seen(), uid="state"), checkpoints=8)
    bids = rows_of(tmp_path)  # noqa: F841 - DuckDB finds it by name
    expected = duckdb.sql("SELECT bidder AS key, count(*)::BIGINT bids FROM bids GROUP BY ALL").to_arrow_table()
    found = fr.read_state(storage(tmp_path), APP, "state")
    assert found.column_names == ["key", "bids", "odd"]
    oracle.same(found.select(["key", "bids"]), expected)
    odd = found.filter(pa.array([count % 2 == 1 for count in found.column("bids").to_pylist()]))
    assert odd.column("odd").null_count == 0
    assert found.column("odd").null_count == found.num_rows - odd.num_rows > 0
