"""Savepoints made of tables: a job that goes on from totals that somebody has put right."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.savepoints import SavepointState
from tests.golden import oracle
from tests.golden.test_savepoints import APP, ROWS, answer, reader, running, start, storage
from tests.running import TIMEOUT_S


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    running("running totals", tmp_path).stop("broken", timeout=TIMEOUT_S)
    return tmp_path


def test_a_repaired_key_a_new_one_and_one_that_is_gone_go_into_the_answer(stopped: Path) -> None:
    state = fr.read_state(storage(stopped), APP, "totals", at="savepoint:broken").sort_by("bidder")
    assert state.column_names == ["bidder", "rows", "total", "smallest", "largest"]
    written = fr.write_savepoint(storage(stopped), APP, "same", {"totals": state}, base="savepoint:broken")
    assert (written["state"], written["rows"] > 0) == ("READY", True)
    assert fr.read_state(storage(stopped), APP, "totals", at="savepoint:same").sort_by("bidder").equals(state)

    wrong, gone = state.column("bidder")[0].as_py(), state.column("bidder")[1].as_py()
    new = pa.table({"bidder": [-1], "rows": [3], "total": [None], "smallest": [None], "largest": [5]}, schema=state.schema)
    repaired = pa.concat_tables([state.slice(0, 1).set_column(2, "total", pa.array([-1_000_000])), state.slice(2), new])
    fr.write_savepoint(storage(stopped), APP, "repaired", {"totals": repaired}, base="savepoint:broken")
    assert start("running totals", stopped, 3, "savepoint:repaired", "second").wait(TIMEOUT_S).records_in == ROWS
    found = {row["bidder"]: row for row in pq.read_table(stopped / "second").to_pylist()}
    right = {row["bidder"]: row for row in answer("running totals").to_pylist()}
    before = {row["bidder"]: row for row in state.to_pylist()}
    assert found[wrong]["total"] == right[wrong]["total"] - before[wrong]["total"] - 1_000_000
    assert found[-1] == {"bidder": -1, "rows": 3, "total": None, "smallest": None, "largest": 5}
    assert found.get(gone, {"rows": 0})["rows"] == right[gone]["rows"] - before[gone]["rows"]
    untouched = pa.array([bidder for bidder in right if bidder not in (wrong, gone)])
    expected = answer("running totals")
    expected = expected.filter(pc.is_in(expected.column("bidder"), untouched))
    second = pq.read_table(stopped / "second").select(expected.column_names)
    oracle.same(second.filter(pc.is_in(second.column("bidder"), untouched)), expected)


def test_a_table_that_does_not_fit_is_refused_before_the_name_is_taken(stopped: Path) -> None:
    state = fr.read_state(storage(stopped), APP, "totals", at="savepoint:broken")
    twice = pa.concat_tables([state, state.slice(0, 1)])
    for tables, error in (
        ({"totals": state.drop_columns(["rows"])}, "give bidder, rows, total, smallest, largest"),
        ({"totals": twice}, "give each key once"),
        ({"totals": state.set_column(2, "total", pa.array(["x"] * state.num_rows))}, "column 'total' is no int64"),
        ({"nobody": state}, "knows no operator 'nobody'"),
        ({"bids": state}, "running aggregates"),
    ):
        with pytest.raises(fr.UsageError, match=error):
            fr.write_savepoint(storage(stopped), APP, "bad", tables, base="savepoint:broken")
    with pytest.raises(fr.UsageError, match="exists already"):
        fr.write_savepoint(storage(stopped), APP, "broken", {"totals": state}, base="savepoint:broken")
    assert [(info.name, info.state) for info in reader(stopped).savepoints.list()] == [("broken", SavepointState.READY)]
