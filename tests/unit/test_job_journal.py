"""What a run with one JobManager leaves in its journal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import flinkray as fr
from flinkray.core.journal_records import decode_record
from flinkray.core.journal_view import decode_view, fold
from flinkray.core.leadership import Leadership
from flinkray.runtime import job_manager_process, local
from flinkray.runtime.journal import MemorySlots


def test_a_run_journals_its_leader_workers_attempt_checkpoints_and_end_and_writes_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = MemorySlots()
    monkeypatch.setattr(local, "MemorySlots", lambda: slots)
    monkeypatch.setattr(job_manager_process, "Leadership", partial(Leadership, snapshot_interval=3))
    checkpointing = fr.Checkpointing(interval="100ms", min_pause="0s", storage=f"file://{tmp_path}/checkpoints")
    env = fr.StreamEnvironment("journaled", parallelism=2, runtime="local", checkpointing=checkpointing)
    env.from_source(fr.sources.Nexmark("bid", rows=4_000, rate=8_000), uid="in").sink_to(fr.sinks.Blackhole(), uid="out")
    result = env.execute()
    assert result.status == "FINISHED"
    oldest, *_, newest = snapshots = slots.snapshots()
    assert len(snapshots) in (2, 3), "what came before the last but one may be there when the run ends just then"
    assert oldest > 3
    assert slots.get(oldest - 1) is None
    snapshot = slots.get_snapshot(newest)
    assert snapshot is not None
    records = []
    while (value := slots.get(newest + len(records))) is not None:
        records.append(decode_record(value))
    view = fold(records, decode_view(snapshot))
    assert (view.election, view.attempt, view.restored, view.restarts, view.ended) == (1, 1, None, 0, "FINISHED")
    assert view.claim is not None
    assert view.data_key.startswith(f"c{view.claim}-")
    assert view.attempt_workers == tuple(instance for instance, _ in view.workers)
    assert view.checkpoint >= 2
    assert all(name.startswith("log/") for _, name in view.manifests)
