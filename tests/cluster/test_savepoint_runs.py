"""Savepoints on a real Ray, made by its leader, and on a real S3 server: restored at another parallelism, the answer is DuckDB's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.key_providers import generate_key_file
from flinkray.checkpoint.savepoints import SavepointState
from flinkray.checkpoint.state_reader import StateReader
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark import nexmark_table
from jobs.sessions import sessions
from tests.golden import oracle
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints
from tests.seaweed import BUCKET, SeaweedServer

ROWS = 30_000
APP = "kept"


def start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: fr.Checkpointing, runtime: str, parallelism: int, restore: str, out: str
) -> fr.JobHandle:
    monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": restore}))
    env = fr.StreamEnvironment(APP, parallelism=parallelism, runtime=runtime, checkpointing=checkpointing)
    source: Source = fr.sources.Nexmark("bid", rows=ROWS, rate=8_000 if restore == "none" else None)
    if restore == "none":
        source = Held(source, ROWS // 4, str(folder / "gate"))
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
    sessions(bids, "200ms").sink_to(fr.sinks.Parquet(str(folder / out)), uid="out")
    return env.execute_async()


def save_and_cancel(job: fr.JobHandle) -> int:
    until_checkpoints(job, 2)
    made = job.savepoint("s", timeout=TIMEOUT_S)
    cancel(job)
    return int(made["checkpoint"])


def save_and_stop(job: fr.JobHandle) -> int:
    until_checkpoints(job, 2)
    assert job.stop("s", timeout=TIMEOUT_S).status == "STOPPED"
    return 1 << 62  # nothing is shown that is not in the savepoint's past


def check(folder: Path, savepoint_of: int) -> None:
    """What the savepoint's past has shown and what was added to it are the whole answer."""
    past = [path for path in (folder / "first").glob("*.parquet") if int(path.name.split("-k")[1].split("-")[0]) <= savepoint_of]
    expected = oracle.sessions(nexmark_table("bid", ROWS, 0), gap_us=200_000)
    tables = [pq.read_table(path) for path in (*past, folder / "second")]
    oracle.same(pa.concat_tables(tables).select(expected.column_names), expected)


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_leader_on_ray_makes_one_and_another_runtime_restores_it(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_key_file(str(tmp_path / "key"))
    key = fr.KeyFile(str(tmp_path / "key"))  # the cluster may have another home
    checkpointing = fr.Checkpointing(interval="200ms", min_pause="0s", storage=f"file://{tmp_path}/checkpoints", key=key)
    made = save_and_cancel(start(tmp_path, monkeypatch, checkpointing, "ray", 2, "none", "first"))
    assert StateReader(checkpointing.storage, APP).savepoints.describe("s").state is SavepointState.READY
    assert start(tmp_path, monkeypatch, checkpointing, "local", 3, "savepoint:s", "second").wait(TIMEOUT_S).records_in == ROWS
    check(tmp_path, made)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.mark.s3
@pytest.mark.timeout(180)
@pytest.mark.parametrize("parallelism", [1, 4])
def test_one_in_s3_is_restored_at_another_parallelism(
    server: SeaweedServer, parallelism: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_key_file(str(tmp_path / "key"))
    options = server.options()
    checkpointing = fr.Checkpointing(
        interval="200ms",
        min_pause="0s",
        storage=f"s3://{BUCKET}/p{parallelism}",
        key=fr.KeyFile(str(tmp_path / "key")),
        storage_options=options,
    )
    job = start(tmp_path, monkeypatch, checkpointing, "local", 2, "none", "first")
    made = save_and_cancel(job) if parallelism == 1 else save_and_stop(job)
    state = fr.read_state(checkpointing.storage, APP, "sessions", "savepoint:s", encryption_key=checkpointing.key, storage_options=options)
    assert state.num_rows > 0
    assert start(tmp_path, monkeypatch, checkpointing, "local", parallelism, "savepoint:s", "second").wait(TIMEOUT_S).records_in == ROWS
    check(tmp_path, made)
