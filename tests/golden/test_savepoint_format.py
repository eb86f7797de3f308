"""A savepoint that was written in format 1, kept for ever: every later flinkray restores it.

`tests/golden/savepoint_format_1/` is the storage of application "kept-1" with savepoint "golden" of a run over the first rows of the bids, and the
key that sealed it (a test's key: it protects nothing).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.state_reader import StateReader
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle

KEPT = Path(__file__).parent / "savepoint_format_1"
ROWS = 4_000
TIMEOUT_S = 60.0
APP = "kept-1"


def job(env: fr.StreamEnvironment, out: Path, rate: float | None) -> None:
    bids = env.from_source(fr.sources.Nexmark("bid", rows=ROWS, rate=rate), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
    totals = {"rows": fr.agg.count(), "total": fr.agg.sum("price"), "smallest": fr.agg.min("price"), "largest": fr.agg.max("price")}
    bids.key_by("bidder").aggregate(emit="final", **totals).uid("totals").sink_to(fr.sinks.Parquet(str(out)), uid="out")


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_savepoint_of_format_1_is_read_and_restored(parallelism: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(KEPT, tmp_path / "kept")
    storage, key = f"file://{tmp_path}/kept", fr.KeyFile(str(tmp_path / "kept" / "key"))
    header, source = StateReader(storage, APP, key).savepoints.read("golden")
    assert source.problems() == []
    taken_in = source.manifest.counters.records_in
    assert 0 < taken_in < ROWS
    state = fr.read_state(storage, APP, "totals", at="savepoint:golden", encryption_key=key)
    assert sum(state.column("rows").to_pylist()) == taken_in
    monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": "savepoint:golden"}))
    checkpointing = fr.Checkpointing(storage=storage, key=key)
    env = fr.StreamEnvironment(APP, parallelism=parallelism, runtime="local", checkpointing=checkpointing)
    job(env, tmp_path / "out", None)
    assert env.execute_async().wait(TIMEOUT_S).records_in == ROWS
    expected = oracle.running_totals(nexmark_table("bid", ROWS, 0), "bidder", "price")
    oracle.same(pa.concat_tables([pq.read_table(tmp_path / "out").select(expected.column_names)]), expected)
    assert header.facts.package_version
