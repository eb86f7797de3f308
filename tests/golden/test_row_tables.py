"""State of joins, rankings and process functions as tables, of the savepoints that are kept: each had taken in the first `READ` bids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.operators.state_views import StateView
from flinkray.runtime.inspection import open_saved
from flinkray.runtime.state_diff import _by_row, diff
from tests.golden import oracle
from tests.golden.keep_savepoints import FOLDER, application, environment, run
from tests.golden.kept_jobs import KEPT, READ, auctions, bids

KEY = fr.KeyFile(str(FOLDER / "key"))


def state(name: str, **arguments: Any) -> pa.Table:
    return fr.read_state(f"file://{FOLDER}", application(name), "operator", "savepoint:golden", encryption_key=KEY, **arguments)


def of_side(table: pa.Table, side: str, *columns: str) -> pa.Table:
    return table.filter(pa.array([value == side for value in table.column("side").to_pylist()])).select(columns)


def read() -> pa.Table:
    return bids().slice(0, READ)


def test_a_regular_join_gives_the_rows_of_both_sides_with_their_partners() -> None:
    found = state("regular-join")
    assert found.column_names == ["side", "auction", "price", "placed", "event_time", "partners", "id", "seller", "reserve", "opened"]
    oracle.same(of_side(found, "left", "auction", "price", "placed"), read().select(["auction", "price", "placed"]))
    oracle.same(of_side(found, "right", "id", "seller", "reserve", "opened"), auctions())
    left = of_side(found, "left", "auction", "partners").to_pylist()
    ids = set(auctions().column("id").to_pylist())
    assert all(row["partners"] == (row["auction"] in ids) for row in left)


def test_an_interval_join_gives_rows_that_a_later_one_may_meet() -> None:
    found = state("interval-join")
    left = of_side(found, "left", "auction", "price", "event_time", "has_partner").to_pylist()
    all_read = {(row["auction"], row["price"]): row["placed"] for row in read().to_pylist()}
    assert all(all_read[row["auction"], row["price"]] == row["event_time"] for row in left)
    reached = max(all_read.values()).timestamp()
    soon = {key for key, placed in all_read.items() if placed.timestamp() > reached - 0.1}
    assert soon <= {(row["auction"], row["price"]) for row in left}
    assert {row["has_partner"] for row in left} == {True, False}


@pytest.mark.parametrize("name", ["window-join", "as-of-join"])
def test_other_joins_give_rows_of_both_sides(name: str) -> None:
    found = state(name)
    kept = of_side(found, "left", "auction", "price", "placed").to_pylist()
    assert kept
    assert {row["price"] for row in kept} <= set(read().column("price").to_pylist())
    assert set(of_side(found, "right", "id").column("id").to_pylist()) <= set(auctions().column("id").to_pylist())


def test_rankings_give_the_rows_that_are_among_the_best() -> None:
    rows = read()  # noqa: F841 - DuckDB finds it by name
    best = "SELECT auction, price FROM rows QUALIFY row_number() OVER (PARTITION BY auction ORDER BY price DESC, placed) <= 3"
    oracle.same(state("ranks").select(["auction", "price"]), duckdb.sql(best).to_arrow_table())
    top = duckdb.sql("SELECT bidder, max(price) AS price FROM rows GROUP BY bidder").to_arrow_table()
    oracle.same(state("deduplicate").select(["bidder", "price"]), top)


def test_timers_that_wait_are_a_table_in_order_of_time() -> None:
    found = state("process", state="timers")
    assert found.column_names == ["key", "time", "domain"]
    assert found.column("time").to_pylist() == sorted(found.column("time").to_pylist())
    assert set(found.column("domain").to_pylist()) == {"event"}
    bidders = set(read().column("bidder").to_pylist())
    last = max(found.column("time").to_pylist())
    assert {row["key"] for row in found.to_pylist() if row["time"] == last} == bidders, "each has the timer of the end"
    with pytest.raises(fr.RestoreError, match="no timers of 'operator'"):
        state("ranks", state="timers")


def test_process_state_has_a_column_for_each_state() -> None:
    found = state("process")
    assert sorted(found.column_names) == ["counts", "key", "most", "total", "waiting"]
    rows = read()  # noqa: F841
    expected = duckdb.sql("SELECT bidder AS key, count(*) AS total, max(price) AS most FROM rows GROUP BY bidder").to_arrow_table()
    oracle.same(found.select(["key", "total", "most"]), expected)
    with pytest.raises(fr.UsageError, match="filter the table of 'operator'"):
        state("process", key=1)


@pytest.mark.parametrize("name", ["ranks", "regular-join", "process"])
def test_rows_and_lists_are_compared_by_a_diff(name: str) -> None:
    saved = open_saved(f"file://{FOLDER}", application(name), "savepoint:golden", KEY)
    (operator,) = [found for found in diff(saved, saved) if found.operator == "operator"]
    assert operator.comparable
    assert (operator.added.num_rows, operator.changed.num_rows, operator.removed.num_rows) == (0, 0, 0)
    assert operator.same == state(name).num_rows


def test_rows_with_lists_are_compared_too() -> None:
    old = pa.table({"id": [1, 2, 2, 3], "tags": [["a"], ["b"], ["b"], None]})
    new = pa.table({"id": [1, 2, 3, 4], "tags": [["a", "c"], ["b"], None, []]})
    found = _by_row("joined", StateView(old, ()), StateView(new, ()))
    assert found.added.to_pylist() == [{"id": 1, "tags": ["a", "c"]}, {"id": 4, "tags": []}]
    assert found.removed.to_pylist() == [{"id": 1, "tags": ["a"]}, {"id": 2, "tags": ["b"]}]
    assert found.same == 2


def test_state_of_a_process_function_is_written_from_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written as it was leads to the same answer, at another parallelism; a value that was changed goes into it."""
    shutil.copytree(FOLDER / application("process"), tmp_path / application("process"))
    storage, app = f"file://{tmp_path}", application("process")
    table = state("process")
    fewer = table.set_column(table.column_names.index("total"), "total", pc.add(table.column("total"), 1000))
    for name, written in (("same", table), ("more", fewer)):
        facts = fr.write_savepoint(storage, app, name, {"operator": written}, base="savepoint:golden", encryption_key=KEY)
        assert facts["state"] == "READY"
        found = fr.read_state(storage, app, "operator", f"savepoint:{name}", encryption_key=KEY)
        assert found.select(written.column_names).sort_by("key").equals(written.sort_by("key"))
        monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": f"savepoint:{name}"}))
        run("process", environment("process", storage, 3), tmp_path / name).wait(60.0)
        monkeypatch.delenv("FLINKRAY_RUN_OPTIONS")
    shown = pq.read_table(FOLDER / app / "shown.parquet")
    KEPT["process"].check([shown, pq.read_table(tmp_path / "same")])
    totals = {row["bidder"]: row["bids"] for row in pq.read_table(tmp_path / "same").to_pylist() if row["prices"] is None}
    more = {row["bidder"]: row["bids"] for row in pq.read_table(tmp_path / "more").to_pylist() if row["prices"] is None}
    assert more == {bidder: bids + 1000 for bidder, bids in totals.items()}


def test_a_table_that_is_no_state_of_the_process_function_is_refused() -> None:
    table = state("process")
    for given, error in (
        (table.drop_columns(["most"]), "give key, "),
        (pa.concat_tables([table, table.slice(0, 1)]), "give each key once"),
        (table.set_column(0, "key", pa.array(["x"] * table.num_rows)), "column 'key' is no int64"),
    ):
        with pytest.raises(fr.UsageError, match=error):
            fr.write_savepoint(f"file://{FOLDER}", application("process"), "bad", {"operator": given}, "savepoint:golden", KEY)
    with pytest.raises(fr.UsageError, match=r"running aggregates .* and process functions only"):
        fr.write_savepoint(f"file://{FOLDER}", application("ranks"), "bad", {"operator": table}, "savepoint:golden", KEY)
    mixed = state("sliding").drop_columns(["window_start", "window_end"])
    with pytest.raises(fr.UsageError, match="running aggregates"):
        fr.write_savepoint(f"file://{FOLDER}", application("sliding"), "bad", {"operator": mixed}, "savepoint:golden", KEY)
    running = fr.read_state(f"file://{FOLDER}", application("running"), "operator", "savepoint:golden", encryption_key=KEY)
    with pytest.raises(fr.UsageError, match=r"mean.* cannot be written from its result; count, sum, min, max"):
        fr.write_savepoint(f"file://{FOLDER}", application("running"), "bad", {"operator": running}, "savepoint:golden", KEY)
