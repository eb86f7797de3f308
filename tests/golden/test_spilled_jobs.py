"""Jobs whose state is several times its memory: the right answer, with checkpoints, kills and a restore at another parallelism, and nothing left on disk."""

from __future__ import annotations

import errno
import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.config import Resources
from flinkray.connectors.base import Source
from flinkray.runtime import task_manager
from flinkray.state import extents
from flinkray.state.memory import StateMemory
from flinkray.state.paging import PAGE
from tests.golden.test_kills import GOLDEN, IDS, Golden, killed
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints

KEYS = 30_000
ROWS = 2 * KEYS


def start(tmp_path: Path, parallelism: int, rate: float | None, gate: Path | None = None) -> fr.JobHandle:
    """With a `gate`, the last rows come when there is such a file."""
    order = np.random.default_rng(3).permutation(np.arange(ROWS) % KEYS)
    rows = pa.table({"key": order, "value": np.arange(ROWS)})
    resources = fr.Resources(state_memory_mb=1, spill_folder=str(tmp_path / "spill"))
    checkpointing = fr.Checkpointing(interval="100ms", storage=f"file://{tmp_path}/storage")
    env = fr.StreamEnvironment("spilled", parallelism=parallelism, runtime="local", checkpointing=checkpointing, resources=resources)
    source: Source = fr.sources.Memory(rows, rate=rate)
    source = source if gate is None else Held(source, ROWS - 1000, str(gate))
    stream = env.from_source(source, uid="rows").key_by("key")
    totals = stream.aggregate(n=fr.agg.count(), total=fr.agg.sum("value"), least=fr.agg.min("value"), emit="final").uid("sums")
    totals.sink_to(fr.sinks.Parquet(str(tmp_path / "out")), uid="out")
    return env.execute_async()


def until_free(memories: list[StateMemory]) -> None:
    """Until threads have let go of what they had."""
    deadline = time.monotonic() + TIMEOUT_S
    while left := [memory.disk_used_bytes for memory in memories if memory.disk_used_bytes]:
        assert time.monotonic() < deadline, left
        gc.collect()
        time.sleep(0.02)


def test_a_job_with_state_larger_than_its_memory_is_stopped_and_goes_on_at_another_parallelism(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spill").mkdir()
    made: list[StateMemory] = []

    def kept(resources: Resources) -> StateMemory:
        assert resources.state_memory_mb == 1
        made.append(StateMemory(1 << 18, resources.spill_folder))  # a quarter of it
        return made[-1]

    monkeypatch.setattr(task_manager, "state_memory", kept)
    job = start(tmp_path, 1, ROWS / 30)
    until_checkpoints(job, 3)
    deadline = time.monotonic() + TIMEOUT_S
    while made[0].given_up_bytes <= made[0].budget_bytes:
        assert time.monotonic() < deadline, made[0].given_up_bytes
        time.sleep(0.02)
    job.stop(timeout=TIMEOUT_S)
    job = start(tmp_path, 3, None)
    result = job.wait(TIMEOUT_S)
    assert result.records_in == ROWS
    assert len(made) == 4
    assert all(memory.given_up_bytes > memory.budget_bytes for memory in made)
    until_free(made)
    check(tmp_path)
    assert os.listdir(tmp_path / "spill") == []


def check(tmp_path: Path) -> None:
    """The answer is right."""
    found = pq.read_table(tmp_path / "out").sort_by("key")
    order = np.random.default_rng(3).permutation(np.arange(ROWS) % KEYS)
    assert found.column("key").to_pylist() == list(range(KEYS))
    assert found.column("n").to_pylist() == [2] * KEYS
    assert found.column("total").to_numpy().tolist() == np.bincount(order, weights=np.arange(ROWS)).astype(np.int64).tolist()


def test_disk_is_free_again_when_a_job_is_cancelled_and_its_spilled_bytes_are_in_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spill").mkdir()
    made = tiny_memories(monkeypatch)
    job = start(tmp_path, 1, ROWS / 60)
    deadline = time.monotonic() + TIMEOUT_S
    while (state := job.status()["state"])["spilled_bytes"] == 0:
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    assert made[-1].disk_used_bytes > made[-1].budget_bytes
    cancel(job)
    until_free(made)


def no_more_disk(patch: pytest.MonkeyPatch) -> None:
    def refused(fd: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "posix_fallocate", refused)


def disk_that_loses_pages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(extents, "_sync_file_range", lambda *_: errno.EIO)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (no_more_disk, r"^operator 'sums', subtask 0: .*No space left on device; free disk there"),
        (disk_that_loses_pages, "Input/output error.*newest checkpoint"),
    ],
)
def test_a_job_whose_disk_is_full_or_breaks_says_so_and_goes_on_from_its_checkpoint_when_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None], says: str
) -> None:
    made = tiny_memories(monkeypatch, str(tmp_path))
    job = start(tmp_path, 1, ROWS / 4, tmp_path / "gate")  # its state will grow for some seconds
    until_checkpoints(job, 1)
    said: set[str] = set()
    with monkeypatch.context() as patch:
        trouble(patch)
        deadline = time.monotonic() + TIMEOUT_S
        while (status := job.status())["restarts"] < 2:
            assert time.monotonic() < deadline, status
            said.add(status["error"] or "")
            time.sleep(0.02)
    assert [text for text in said if re.search(says, text) and str(tmp_path) in text], said
    (tmp_path / "gate").touch()
    result = job.wait(TIMEOUT_S)
    assert result.restarts >= 2
    assert result.records_in == ROWS, "nothing is read again, as far as counters go"
    check(tmp_path)
    until_free(made)


def tiny_memories(monkeypatch: pytest.MonkeyPatch, folder: str = "") -> list[StateMemory]:
    """Every TaskManager from now on has 16 pages for its state: every array of a page or more is a file."""
    made: list[StateMemory] = []

    def tiny(resources: Resources) -> StateMemory:
        made.append(StateMemory(16 * PAGE, folder))
        return made[-1]

    monkeypatch.setattr(task_manager, "state_memory", tiny)
    return made


SOME = {"hot items", "running totals"}


@pytest.mark.parametrize("golden", [pytest.param(one, marks=() if one.name in SOME else pytest.mark.slow) for one in GOLDEN], ids=IDS)
def test_golden_jobs_give_their_answer_with_all_of_their_state_in_files_and_kills(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_memories(monkeypatch)
    assert killed(golden, range(2, 3), tmp_path) >= 3
    assert made
