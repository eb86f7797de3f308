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
from flinkray.errors import UsageError
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


def test_a_run_whose_output_has_rows_of_a_checkpoint_that_came_after_it_read_the_log_restores_that_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Simulated: transactional-sink, freeze_owner=0.6, seed 8. It was refused: "the output holds rows of another run"."""
    store = SlowRoad()
    committed: list[int] = []
    looks: list[JobStorage] = []

    def look_at_output(graph: object) -> None:
        if looks:
            looks.pop().write_manifest(manifest(1), lambda text: None)
            committed.append(1)
        if committed:
            raise UsageError("the output holds rows of another run")

    monkeypatch.setattr(job_storage, "open_store", lambda *arguments: store)
    monkeypatch.setattr(job_storage, "check_fresh_start", look_at_output)
    first, second = JobStorage(bundle(), "first"), JobStorage(bundle(), "second")
    first.open()
    looks.append(first)
    opened, _ = second.open()
    assert opened.restore is not None
    assert opened.restore.checkpoint == 1


def test_an_output_with_rows_that_no_checkpoint_explains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: object) -> None:
        raise UsageError("the output holds rows of another run")

    store = SlowRoad()
    monkeypatch.setattr(job_storage, "open_store", lambda *arguments: store)
    monkeypatch.setattr(job_storage, "check_fresh_start", refuse)
    with pytest.raises(UsageError, match="another run"):
        JobStorage(bundle(), "first").open()
