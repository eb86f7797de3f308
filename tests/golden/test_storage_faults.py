"""What lies in storage: nothing readable, nothing believed that was changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.checkpoint.state_reader import StateReader
from flinkray.connectors.base import Source
from flinkray.connectors.memory import MemorySink
from tests.held import Held
from tests.running import cancel, until_checkpoints

MARKER = "f1inkray-marker-" + "m" * 16
TIMEOUT_S = 60.0
KEYS = 500


def rows() -> pa.Table:
    return pa.table({"key": [f"{MARKER}-{i % KEYS}" for i in range(20_000)], "value": list(range(20_000))})


def start(folder: Path, transactional: bool = True, rate: float | None = None, **options: object) -> fr.JobHandle:
    checkpointing = fr.Checkpointing(interval="50ms", min_pause="0s", storage=f"file://{folder}/checkpoints", retained=3)
    env = fr.StreamEnvironment("marked", parallelism=2, runtime="local", checkpointing=checkpointing)
    for name, value in options.items():
        object.__setattr__(env.config, name, value)
    source: Source = fr.sources.Memory(rows(), rate=rate)
    if rate is not None:
        source = Held(source, 16_000, str(folder / "gate"))
    totals = (
        env.from_source(source, uid="in")
        .key_by("key")
        .aggregate(total=fr.agg.sum("value"), emit="batch" if not transactional else "final")
        .uid("sum")
    )
    totals.sink_to(MemorySink("marked") if transactional else fr.sinks.Blackhole(), uid="out")
    return env.execute_async()


def interrupted(folder: Path, transactional: bool) -> Path:
    """A job that was cancelled in the middle, with three complete checkpoints. Returns the application's folder."""
    job = start(folder, transactional, rate=20_000)
    until_checkpoints(job, 6)
    cancel(job)
    return folder / "checkpoints" / "marked"


def newest_data(application: Path) -> list[Path]:
    """Data objects that the last checkpoint refers to, newest first; one that was under way when the job was cancelled counts for nothing."""

    def checkpoint(path: Path) -> int:
        found = re.search(r"k(\d+)", path.name)
        assert found is not None
        return int(found[1])

    named = StateReader(f"file://{application.parent}", application.name).checkpoint("latest").manifest.object_names
    return sorted((application / name for name in named), key=checkpoint, reverse=True)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def swap(path: Path) -> None:
    other = next(p for p in path.parent.iterdir() if p != path)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def test_no_object_holds_anything_readable(tmp_path: Path) -> None:
    application = interrupted(tmp_path, transactional=False)
    objects = [path for path in application.rglob("*") if path.is_file()]
    assert any(path.parent.name == "data" for path in objects)
    found = [path for path in objects if MARKER.encode() in path.read_bytes() or b"m" * 16 in path.read_bytes()]
    assert found == []


@pytest.mark.parametrize("damage", [flip, truncate, swap])
def test_a_damaged_object_is_refused_by_name_and_an_older_checkpoint_restored_where_nothing_was_committed(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    application = interrupted(tmp_path, transactional=False)
    victim = newest_data(application)[0]
    damage(victim)
    job = start(tmp_path, transactional=False)
    result = job.wait(TIMEOUT_S)
    said = "\n".join(line.text for line in job.lines(0))
    assert "damaged" in said, said
    assert "data/" in said, said
    assert result.status == "FINISHED"
    assert result.records_in == 20_000


def test_a_damaged_manifest_ends_failed_with_the_remedy_when_a_sink_may_have_committed_since(tmp_path: Path) -> None:
    application = interrupted(tmp_path, transactional=True)
    manifests = sorted((application / "log").iterdir())
    flip(manifests[-2])  # the last record is Ended(CANCELLED)
    with pytest.raises(fr.FlinkrayError, match=rf"(?s){manifests[-2].name}.*--allow-repeated-output"):
        start(tmp_path, transactional=True).wait(TIMEOUT_S)


def test_the_remedy_works(tmp_path: Path) -> None:
    application = interrupted(tmp_path, transactional=True)
    flip(sorted((application / "log").iterdir())[-2])
    result = start(tmp_path, transactional=True, allow_repeated_output=True).wait(TIMEOUT_S)
    assert result.status == "FINISHED"
    totals = {row["key"]: row["total"] for row in MemorySink.rows("marked").to_pylist()}
    assert totals[f"{MARKER}-7"] == sum(range(7, 20_000, KEYS))


def test_another_key_is_refused_by_its_id(tmp_path: Path, home: Path) -> None:
    interrupted(tmp_path, transactional=True)
    (home / "key").unlink()
    with pytest.raises(fr.FlinkrayError, match="key") as refused:
        start(tmp_path, transactional=True).wait(TIMEOUT_S)
    assert type(refused.value).__name__ == "KeyUnavailableError"


def test_a_finished_run_starts_afresh(tmp_path: Path) -> None:
    assert start(tmp_path).wait(TIMEOUT_S).records_in == 20_000
    job = start(tmp_path)
    assert job.wait(TIMEOUT_S).records_in == 20_000
    assert any("afresh" in line.text for line in job.lines(0))
