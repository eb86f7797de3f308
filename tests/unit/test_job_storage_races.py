"""Two runs of one application at the same time: found in simulation (transactional-sink, swarm seeds 278 and 284)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

import flinkray as fr
from flinkray.checkpoint.base import CreateOutcome
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.names import LOG_FOLDER
from flinkray.core.job_events import CheckpointContent, WriteManifest
from flinkray.core.messages import Counters
from flinkray.runtime import job_storage
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.task_manager import JobBundle


class SlowRoad(MemoryStore):
    """`meanwhile` happens right before the next record of the log is created."""

    def __init__(self) -> None:
        super().__init__(f"test-{os.urandom(8).hex()}")
        self.meanwhile: list[WriteManifest] = []
        self.writer: JobStorage | None = None

    def create(self, name: str, data: bytes) -> CreateOutcome:
        if name.startswith(LOG_FOLDER) and self.meanwhile:
            command = self.meanwhile.pop()
            assert self.writer is not None
            self.writer.write_manifest(command, lambda text: None)
        return super().create(name, data)


def bundle() -> JobBundle:
    env = fr.StreamEnvironment("app", parallelism=1, runtime="local", checkpointing=fr.Checkpointing(storage="memory://unused"))
    env.from_source(fr.sources.Nexmark("bid", rows=10), uid="in").sink_to(fr.sinks.Parquet("/nowhere"), uid="out")
    return JobBundle(env.job_graph(), replace(env.config, restore="latest"), "app")


def manifest(checkpoint: int) -> WriteManifest:
    return WriteManifest(CheckpointContent(checkpoint, 1, (), {"out": ({"files": ["part"]},)}, Counters(checkpoint, 0)), 0.0, 1.0)


def test_a_manifest_that_stands_below_the_claim_is_restored_though_it_was_not_there_when_the_log_was_first_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = SlowRoad()
    monkeypatch.setattr(job_storage, "open_store", lambda *arguments: store)
    monkeypatch.setattr(job_storage, "check_fresh_start", lambda graph: None)
    first, second = JobStorage(bundle(), "first"), JobStorage(bundle(), "second")
    first.open()
    first.write_manifest(manifest(1), lambda text: None)
    store.writer, store.meanwhile = first, [manifest(2)]
    opened, chosen = second.open()
    assert opened.restore is not None
    assert opened.restore.checkpoint == 2, f"rows that checkpoint 2 commits would be written again: {chosen}"
    assert opened.next_checkpoint == 3
