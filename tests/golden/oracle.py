"""What the answers must be: DuckDB over the same rows, in SQL that shares nothing with flinkray, as sorted Arrow tables.

Times are counted in whole microseconds (int64) inside DuckDB, so that no time zone and no rounding comes between.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import duckdb
import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
SECOND = 1_000_000


def sliding_counts(bids: pa.Table, size_us: int = 10 * SECOND, slide_us: int = 2 * SECOND) -> pa.Table:
    """auction, window_start, window_end, bids: every window that holds a bid of the auction."""
    return _answer(bids, _windows(size_us, slide_us))


def hot_items(bids: pa.Table, size_us: int = 10 * SECOND, slide_us: int = 2 * SECOND) -> pa.Table:
    """auction, window_start, window_end, bids: of each window the auctions with the most bids (Nexmark q5)."""
    most = "SELECT *, max(bids) OVER (PARTITION BY window_start) AS most FROM counts"
    query = f"WITH counts AS ({_windows(size_us, slide_us)}) SELECT * EXCLUDE most FROM ({most}) WHERE bids = most"
    return _answer(bids, query)


def _windows(size_us: int, slide_us: int) -> str:
    """Each row once for each of its windows. The last window of a row starts at its time rounded down to a multiple of the slide."""
    return f"""
        SELECT auction, date_time - date_time % {slide_us} - back AS window_start, window_start + {size_us} AS window_end, count(*) AS bids
        FROM rows, range(0, {size_us}, {slide_us}) AS earlier(back)
        WHERE date_time < date_time - date_time % {slide_us} - back + {size_us}
        GROUP BY ALL"""


def highest_bids(bids: pa.Table, size_us: int = 10 * SECOND) -> pa.Table:
    """auction, bidder, price, date_time, window_start, window_end: the bids of each window that no other outbids (Nexmark q7)."""
    query = f"""
        WITH placed AS (SELECT auction, bidder, price, date_time, date_time - date_time % {size_us} AS window_start FROM rows),
        highest AS (SELECT window_start, max(price) AS price FROM placed GROUP BY window_start)
        SELECT placed.*, window_start + {size_us} AS window_end FROM placed SEMI JOIN highest USING (window_start, price)"""
    return _answer(bids, query)


def sessions(bids: pa.Table, gap_us: int = 10 * SECOND, key: str = "bidder") -> pa.Table:
    """key, window_start, window_end, bids, total: runs of a key's rows with no pause above the gap (Nexmark q11). A pause that is
    exactly the gap does not end a session; window_end is the last row's time plus the gap."""
    query = f"""
        WITH paused AS (
            SELECT *, coalesce(date_time - lag(date_time) OVER by_time > {gap_us}, true) AS begins FROM rows
            WINDOW by_time AS (PARTITION BY {key} ORDER BY date_time)
        ), numbered AS (
            SELECT *, sum(begins::INT) OVER (PARTITION BY {key} ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS number FROM paused
        )
        SELECT {key}, min(date_time) AS window_start, max(date_time) + {gap_us} AS window_end,
            count(*) AS bids, sum(price)::BIGINT AS total
        FROM numbered GROUP BY {key}, number"""
    return _answer(bids, query)


def running_totals(rows: pa.Table, key: str, value: str) -> pa.Table:
    """key, rows, total, smallest, largest: the last answer of a running aggregate."""
    query = f"""
        SELECT {key}, count(*) AS rows, sum({value})::BIGINT AS total, min({value}) AS smallest, max({value}) AS largest
        FROM rows GROUP BY {key}"""
    return _answer(rows, query)


def select(rows: pa.Table, query: str) -> pa.Table:
    """Any other question about `rows`; timestamps are int64 microseconds in it."""
    return _answer(rows, query)


def select_from(tables: dict[str, pa.Table], query: str) -> pa.Table:
    """Any question about several tables, by the names given."""
    return _answers(tables, query)


def _answer(rows: pa.Table, query: str) -> pa.Table:
    return _answers({"rows": rows}, query)


def _answers(tables: dict[str, pa.Table], query: str) -> pa.Table:
    with duckdb.connect(config={"temp_directory": "", "memory_limit": "4GB"}) as connection:  # a mistake must not fill the disk
        for name, table in tables.items():
            connection.register(name, _int_times(table))
        answer = connection.sql(f"FROM ({query}) ORDER BY ALL").to_arrow_table()
    for name in ("window_start", "window_end", "date_time"):
        if name in answer.column_names:
            index = answer.schema.get_field_index(name)
            answer = answer.set_column(index, name, answer.column(index).cast(pa.int64()).cast(TIMESTAMP))
    return answer


def _int_times(rows: pa.Table) -> pa.Table:
    for index, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(index, field.name, rows.column(index).cast(TIMESTAMP).cast(pa.int64()))
    return rows


def same(got: pa.Table, expected: pa.Table, shown: int = 5) -> bool:
    """True when both hold the same rows, as often, in any order; columns by name. Else raises AssertionError that shows the difference."""
    if sorted(got.column_names) != sorted(expected.column_names):
        raise AssertionError(f"columns differ: got {sorted(got.column_names)}, expected {sorted(expected.column_names)}")
    names = expected.column_names
    unequal = [n for n in names if _kind(got.schema.field(n).type) != _kind(expected.schema.field(n).type)]
    if unequal:
        types = ", ".join(f"{n}: got {got.schema.field(n).type}, expected {expected.schema.field(n).type}" for n in unequal)
        raise AssertionError(f"column types differ: {types}")
    if _sorted(got, names).equals(_sorted(expected, names)):
        return True
    counts, wanted = Counter(_rows(got, names)), Counter(_rows(expected, names))
    missing, unwanted = wanted - counts, counts - wanted
    if not missing and not unwanted:
        return True
    lines = [f"{len(got)} rows, expected {len(expected)}; {missing.total()} missing, {unwanted.total()} unwanted", f"columns: {names}"]
    lines += _listed("missing", missing, shown) + _listed("unwanted", unwanted, shown)
    raise AssertionError("\n".join(lines))


def _kind(kind: pa.DataType) -> str:
    """Integers and strings of any width compare equal, as do floats; times must be times."""
    for name, test in (("integer", pa.types.is_integer), ("float", pa.types.is_floating), ("time", pa.types.is_timestamp)):
        if test(kind):
            return name
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return "string"
    return str(kind)


def _sorted(table: pa.Table, names: list[str]) -> pa.Table:
    return table.select(names).sort_by([(name, "ascending") for name in names]).combine_chunks()


def _rows(table: pa.Table, names: list[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _listed(what: str, rows: Counter[tuple[Any, ...]], shown: int) -> list[str]:
    ordered = sorted(rows.items(), key=lambda item: tuple(str(value) for value in item[0]))
    lines = [f"  {what} {f'{count} x ' if count > 1 else ''}{tuple(map(str, row))}" for row, count in ordered[:shown]]
    return [*lines, f"  ... and {len(ordered) - shown} more {what}"] if len(ordered) > shown else lines
