"""Savepoints that were written in format 1, kept for ever: every later flinkray restores them.

`tests/golden/savepoint_format_1/` is the storage of applications with a savepoint "golden" each, and the key that sealed them (a test's key: it
protects nothing). "kept-1" is a run over the first rows of Nexmark's bids; what the others are is in `kept_jobs`.
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
from tests.golden.keep_savepoints import application, environment, run
from tests.golden.kept_jobs import KEPT as KEPT_JOBS

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


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("name", KEPT_JOBS)
def test_what_users_have_in_savepoints_of_format_1_is_restored(
    name: str, parallelism: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, folder = KEPT_JOBS[name], KEPT / application(name)
    shutil.copytree(folder, tmp_path / "storage" / application(name))
    _, source = StateReader(f"file://{tmp_path}/storage", application(name), fr.KeyFile(str(KEPT / "key"))).savepoints.read("golden")
    assert source.problems() == []
    assert 0 < source.manifest.counters.records_in < kept.rows
    monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": "savepoint:golden"}))
    env = environment(name, f"file://{tmp_path}/storage", parallelism)
    assert run(name, env, tmp_path / "out").wait(TIMEOUT_S).records_in == kept.rows, "no row is read twice, none is left out"
    assert kept.answer().num_rows > 30
    shown = folder / "shown.parquet"
    kept.check([pq.read_table(path) for path in (shown, tmp_path / "out") if path.exists()])


def test_every_kept_savepoint_has_its_job() -> None:
    there = {folder.name for folder in KEPT.iterdir() if folder.is_dir()}
    assert there == {APP, *map(application, KEPT_JOBS)}
