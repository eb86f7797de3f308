"""A small job run to warm a TaskManager before it counts as a spare: imports, kernels' first calls, sealing and restoring are behind it when
a real deployment comes. It touches nothing outside the process: generated rows, memory:// storage, a sink that keeps nothing."""

from __future__ import annotations

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq

from flinkray.api import agg
from flinkray.api.environment import StreamEnvironment
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.store import open_store, write_probe
from flinkray.config import Checkpointing, JobConfig
from flinkray.connectors.memory import BlackholeSink, MemorySource
from flinkray.connectors.parquet import ParquetSource
from flinkray.core.messages import Acknowledged, Command, Deploy, Start, StateRef, Trigger
from flinkray.exchange.in_process import InProcessExchange, InProcessNetwork
from flinkray.expressions import col
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.windows import WatermarkStrategy, session, sliding, tumbling
from flinkray.ids import Epoch
from flinkray.runtime.background import ThreadBackground
from flinkray.runtime.task_manager import JobBundle, Secrets, TaskManager
from flinkray.state.key_hash import hash_keys, key_groups, partition

STORAGE = "memory://rehearsal"
ROWS = 20_000
TURNS = 12
LIMIT_S = 20.0


def rehearse(sessions: bool = True, parquet: bool = False) -> float:
    """Returns the seconds that it took. `sessions`: with session windows, whose kernels a job without them does not have compiled; `parquet`:
    a file is read, too, which is not on a disk."""
    started = time.perf_counter()
    if parquet:
        _read_parquet()
    env = StreamEnvironment("rehearsal")
    env.config = JobConfig("rehearsal", checkpointing=Checkpointing(storage=STORAGE))  # whatever options the real job was given
    bundle = JobBundle(_graph(env, sessions), env.config, "rehearsal")
    store = open_store(STORAGE, bundle.application)
    write_probe(store, "claim-1")
    exchange = InProcessExchange(InProcessNetwork(), "0" * 32)
    manager = TaskManager("0" * 32, exchange, ThreadBackground("rehearsal"), bundle, store)
    key = DataKey("rehearsal", bytes(32))
    secrets = Secrets(b"rehearsal", key, {key.key_id: key})
    try:
        states = _run(manager, exchange, secrets, 1, None, ())
        _run(manager, exchange, secrets, 2, 1, states)
    finally:
        manager.close()
        store.delete(store.list(""))
    return time.perf_counter() - started


def _read_parquet() -> None:
    numbers = pa.array(range(ROWS), pa.int64())
    texts = pa.array([f"key {i % 7}" for i in range(ROWS)])
    written = pa.BufferOutputStream()
    table = pa.table({"plain": numbers, "few": pa.array([i % 7 for i in range(ROWS)]), "texts": texts})
    pq.write_table(table, written, use_dictionary=["few", "texts"])
    file = os.memfd_create("rehearsal")
    try:
        os.write(file, written.getvalue())
        source = ParquetSource(f"/proc/self/fd/{file}")
        for split in source.enumerator(None, None, 1).discover():
            reader = source.open_split(split, None)
            while reader.read(ROWS) is not None:
                pass
            reader.close()
    finally:
        os.close(file)


def _graph(env: StreamEnvironment, sessions: bool) -> JobGraph:
    numbers = pa.array(range(ROWS), pa.int64())
    texts = pa.array([f"key {i % 7}" for i in range(ROWS)])
    rows = pa.table({"key": numbers, "text": texts, "at": numbers})
    stream = (
        env.from_source(MemorySource(rows), watermark=WatermarkStrategy("at"), uid="in")
        .filter(col("key") >= 0)
        .with_columns(twice=col("key") * 2)
    )
    count, total = agg.count(), agg.sum("twice")
    counts = stream.key_by("key").window(sliding("5ms", "1ms")).aggregate(n=count, total=total).uid("windows")
    counts.window_all(tumbling("1ms")).top_n(1, by="n").uid("top").sink_to(BlackholeSink(), uid="a")
    stream.key_by("text").aggregate(n=count, total=total).uid("running").sink_to(BlackholeSink(), uid="b")
    if sessions:
        stream.key_by("key").window(session("1ms")).aggregate(n=count).uid("sessions").sink_to(BlackholeSink(), uid="c")
    groups = key_groups(hash_keys(rows.to_batches()[0], ("key", "text"), 1), 128)
    partition(groups, 128, 2)
    return env.job_graph()


def _run(
    manager: TaskManager, exchange: InProcessExchange, secrets: Secrets, attempt: int, restored: int | None, states: tuple[StateRef, ...]
) -> tuple[StateRef, ...]:
    """Deploy, run some turns, take a checkpoint; returns what it holds."""
    epoch = Epoch(1, 1, "rehearsal")
    manager.submit(Command(epoch, attempt, Deploy(0, 1, 1, (exchange.endpoint,), restored, states)), secrets)
    manager.run_once(0.0)
    manager.submit(Command(epoch, attempt, Start()))
    for _ in range(TURNS):
        manager.run_once(0.0)
    manager.submit(Command(epoch, attempt, Trigger(attempt, restored)))
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        manager.run_once(0.001)
        for _, report in manager.poll(0, 0.0)[0]:
            if isinstance(report.body, Acknowledged) and report.attempt == attempt:
                return report.body.states
    return ()
