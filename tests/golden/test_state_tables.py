"""`read_state` and `list_state` against DuckDB over exactly the rows that the checkpoint had taken in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.checkpoint.key_providers import generate_key_file
from flinkray.checkpoint.state_reader import StateReader
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle
from tests.held import Held
from tests.running import cancel, until_checkpoints

ROWS = 60_000
APP = "tables"

Build = Callable[[fr.DataStream], fr.DataStream]


def totals(bids: fr.DataStream) -> fr.DataStream:
    aggregates = {
        "bids": fr.agg.count(),
        "total": fr.agg.sum("price"),
        "mean": fr.agg.mean("price"),
        "lowest": fr.agg.min("price"),
        "newest": fr.agg.max("date_time"),
    }
    return bids.key_by("bidder").aggregate(emit="final", **aggregates).uid("state")


def sliding(bids: fr.DataStream) -> fr.DataStream:
    return bids.key_by("auction").window(fr.windows.Sliding("600ms", "200ms")).aggregate(bids=fr.agg.count()).uid("state")


def tumbling(bids: fr.DataStream) -> fr.DataStream:
    return bids.key_by("auction").window(fr.windows.Tumbling("600ms")).aggregate(bids=fr.agg.count()).uid("state")


def sessions(bids: fr.DataStream) -> fr.DataStream:
    windows = bids.key_by("bidder").window(fr.windows.Session("100ms"))
    return windows.aggregate(bids=fr.agg.count(), total=fr.agg.sum("price")).uid("state")


def storage(folder: Path) -> str:
    return f"file://{folder}/checkpoints"


def taken(folder: Path, build: Build, parallelism: int = 1, checkpoints: int = 12) -> None:
    """Run the job until it has that many checkpoints, deltas among them, and cancel it; none is swept meanwhile."""
    checkpointing = fr.Checkpointing(interval="50ms", min_pause="0s", storage=storage(folder), retained=100)
    env = fr.StreamEnvironment(APP, parallelism=parallelism, runtime="local", checkpointing=checkpointing)
    source = Held(fr.sources.Nexmark("bid", rows=ROWS, rate=15_000), ROWS * 4 // 5, str(folder / "gate"))
    build(env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "50ms"), uid="bids")).sink_to(
        fr.sinks.Parquet(str(folder / "out"), changelog=build is totals), uid="out"
    )
    job = env.execute_async()
    until_checkpoints(job, checkpoints)
    cancel(job)


def rows_of(folder: Path, at: str | int = "latest") -> pa.Table:
    """Those that the checkpoint had taken in: one reader takes them in order."""
    taken_in = StateReader(storage(folder), APP).checkpoint(at).manifest.counters.records_in
    assert 0 < taken_in < ROWS
    return nexmark_table("bid", ROWS, 0).slice(0, taken_in)


def watermark_us(folder: Path) -> int:
    return min(fr.read_state(storage(folder), APP, "state", state="watermark").column("watermark").to_pylist())


def test_running_aggregates_are_what_the_rows_so_far_say(tmp_path: Path) -> None:
    taken(tmp_path, totals)
    bids = rows_of(tmp_path)  # noqa: F841 - DuckDB finds it by name
    expected = duckdb.sql(
        "SELECT bidder, count(*) bids, sum(price)::BIGINT total, avg(price) mean, min(price) lowest, max(date_time) newest FROM bids GROUP BY ALL"
    ).to_arrow_table()
    found = fr.read_state(storage(tmp_path), APP, "state")
    assert found.column_names == ["bidder", "bids", "total", "mean", "lowest", "newest"]
    oracle.same(found.drop_columns(["mean", "newest"]), expected.drop_columns(["mean", "newest"]))
    ordered = [table.sort_by("bidder").to_pydict() for table in (found, expected)]
    assert ordered[0]["newest"] == ordered[1]["newest"]
    assert ordered[0]["mean"] == pytest.approx(ordered[1]["mean"], rel=1e-12)


@pytest.mark.parametrize(("build", "size_us", "slide_us"), [(sliding, 600_000, 200_000), (tumbling, 600_000, 600_000)])
def test_open_windows_are_what_the_rows_so_far_say(build: Build, size_us: int, slide_us: int, tmp_path: Path) -> None:
    taken(tmp_path, build)
    whole = oracle.sliding_counts(rows_of(tmp_path), size_us, slide_us)
    watermark = watermark_us(tmp_path)
    ends = whole.column("window_end").cast(pa.int64()).to_numpy()
    expected = whole.filter(pa.array(ends - 1 > watermark))
    assert 0 < expected.num_rows < whole.num_rows
    oracle.same(fr.read_state(storage(tmp_path), APP, "state").select(expected.column_names), expected)


def test_open_sessions_are_what_the_rows_so_far_say(tmp_path: Path) -> None:
    taken(tmp_path, sessions)
    whole = oracle.sessions(rows_of(tmp_path), gap_us=100_000)
    ends = whole.column("window_end").cast(pa.int64()).to_numpy()
    expected = whole.filter(pa.array(ends > watermark_us(tmp_path)))
    assert 0 < expected.num_rows < whole.num_rows
    oracle.same(fr.read_state(storage(tmp_path), APP, "state").select(expected.column_names), expected)


def test_all_subtasks_and_older_checkpoints_are_read(tmp_path: Path) -> None:
    taken(tmp_path, totals, parallelism=3)
    checkpoints = StateReader(storage(tmp_path), APP).checkpoints()
    assert len(checkpoints) >= 12
    for listed in checkpoints:
        assert listed.manifest is not None
        table = fr.read_state(storage(tmp_path), APP, "state", at=listed.checkpoint or 0)
        assert sum(table.column("bids").to_pylist()) == listed.manifest.counters.records_in


def test_one_key_is_found_and_an_absent_one_is_an_empty_table(tmp_path: Path) -> None:
    taken(tmp_path, totals, parallelism=2)
    everything = fr.read_state(storage(tmp_path), APP, "state")
    for bidder in everything.column("bidder").to_pylist()[:3]:
        one = fr.read_state(storage(tmp_path), APP, "state", key=bidder)
        assert one.equals(everything.filter(pa.compute.equal(everything.column("bidder"), bidder)))
        assert fr.read_state(storage(tmp_path), APP, "state", key={"bidder": bidder}).equals(one)
    assert fr.read_state(storage(tmp_path), APP, "state", key=-1).num_rows == 0
    with pytest.raises(fr.UsageError, match="does not fit the keys of 'state' \\(bidder int64\\)"):
        fr.read_state(storage(tmp_path), APP, "state", key="nobody")


def test_list_state_names_operators_states_rows_bytes_and_key_groups(tmp_path: Path) -> None:
    taken(tmp_path, totals, parallelism=2)
    listed = fr.list_state(storage(tmp_path), APP).to_pylist()
    rows = [row for row in listed if (row["operator"], row["state"]) == ("state", "rows")]
    assert [(row["subtask"], row["key_group_start"], row["key_group_stop"]) for row in rows] == [(0, 0, 64), (1, 64, 128)]
    assert all(row["rows"] > 0 and row["bytes"] > 0 and row["kind"] == "keyed_aggregate" for row in rows)
    assert {row["operator"] for row in listed} >= {"state", "out"}
    assert all(row["key_group_start"] is None for row in listed if row["state_kind"] == "list")


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(tmp_path, totals)
    uri = storage(tmp_path)
    with pytest.raises(fr.RestoreError, match=r"no application 'nobody'"):
        fr.read_state(uri, "nobody", "state")
    assert not (tmp_path / "checkpoints" / "nobody").exists(), "looking leaves no trace"
    with pytest.raises(fr.RestoreError, match=r"no checkpoint 999 of tables in file://.*; there are: 1, 2, 3, "):
        fr.read_state(uri, APP, "state", at=999)
    with pytest.raises(fr.UsageError, match="at='newest'"):
        fr.read_state(uri, APP, "state", at="newest")
    with pytest.raises(fr.RestoreError, match=r"no state of an operator 'nothing'; it holds state of: .*state"):
        fr.read_state(uri, APP, "nothing")
    with pytest.raises(fr.RestoreError, match=r"'out' \(sink\) has no decoded table; .* state='transactions'"):
        fr.read_state(uri, APP, "out")
    with pytest.raises(fr.RestoreError, match=r"has no state 'panes' .*; it has: ended, rows"):
        fr.read_state(uri, APP, "state", state="panes")
    other = tmp_path / "other.key"
    key_id = generate_key_file(str(other))
    with pytest.raises(fr.KeyUnavailableError, match=f"is key {key_id}: give the key it was written with"):
        fr.read_state(uri, APP, "state", encryption_key=fr.KeyFile(str(other)))
    monkeypatch.setenv("FLINKRAY_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(fr.ConfigError, match="cannot be read"):
        fr.read_state(uri, APP, "state")
    assert not (tmp_path / "elsewhere").exists(), "reading makes no key"
