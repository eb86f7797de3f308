"""Are flinkray's answers to the benchmark's queries those of DuckDB over the same rows? `python benchmarks/check.py [ROWS]`.

Runs each query over Parquet and over CSV, with checkpoints every second, into Parquet files; exits 1 when one differs, showing the rows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import data
import pyarrow as pa
import pyarrow.parquet
import queries

import flinkray as fr
from flinkray.connectors.nexmark import nexmark_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "golden"))
import oracle

SUM = "SELECT bidder, sum(price)::BIGINT AS total FROM rows GROUP BY bidder"
EXPECTED = {
    "q0": lambda rows: oracle.select(rows, "SELECT auction, bidder, price, date_time, extra FROM rows"),
    "q1": lambda rows: oracle.select(rows, "SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra FROM rows"),
    "q2": lambda rows: oracle.select(rows, "SELECT auction, price FROM rows WHERE auction % 123 = 0"),
    "q5": lambda rows: oracle.hot_items(rows).drop_columns("window_end"),
    "q7": lambda rows: oracle.highest_bids(rows).drop_columns(["window_start", "window_end"]),
    "q11": lambda rows: oracle.sessions(rows).drop_columns("total"),
    "sum": lambda rows: oracle.select(rows, SUM),
    "sum-final": lambda rows: oracle.select(rows, SUM),
}


def answer(query: str, files: list[str], parallelism: int) -> pa.Table:
    """What flinkray's files hold; of a changelog the last row of each key."""
    with tempfile.TemporaryDirectory() as out:
        sink: Any = fr.sinks.Parquet(out, changelog=query == "sum")
        queries.run(query, files, parallelism, "ray", sink)
        table = pa.concat_tables(pa.parquet.read_table(path) for path in sorted(Path(out).glob("*.parquet")))
    if query != "sum":
        return table
    last = table.group_by("bidder").aggregate([("_seq", "max")]).rename_columns({"_seq_max": "_seq"})
    return table.join(last, ["bidder", "_seq"], join_type="inner").select(["bidder", "total"])


def main() -> int:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    bids = nexmark_table("bid", rows, data.SEED)
    wrong = 0
    for query, expect in EXPECTED.items():
        expected = expect(bids)
        if query == "q7":
            extra = bids.select(["auction", "bidder", "date_time", "extra"])
            expected = expected.join(extra, ["auction", "bidder", "date_time"])
        for files in (data.parquet_files(rows), data.csv_files(rows)):
            kind = Path(files[0]).suffix[1:]
            try:
                oracle.same(answer(query, files, 2), expected)
                print(f"{query} over {kind}: {len(expected):,} rows, equal to DuckDB's", flush=True)
            except AssertionError as error:
                wrong += 1
                print(f"{query} over {kind}: NOT equal to DuckDB's: {error}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
