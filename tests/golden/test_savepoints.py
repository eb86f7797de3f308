"""Savepoints of running jobs, restored at other parallelisms, under other names, into other places, against DuckDB."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
from jobs.hot_items import hot_items
from jobs.sessions import sessions
from tests.golden import oracle
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints

ROWS = 40_000
APP = "named"

Build = Callable[[fr.DataStream], fr.DataStream]


def final_totals(bids: fr.DataStream) -> fr.DataStream:
    aggregates = {"rows": fr.agg.count(), "total": fr.agg.sum("price"), "smallest": fr.agg.min("price"), "largest": fr.agg.max("price")}
    return bids.key_by("bidder").aggregate(emit="final", **aggregates).uid("totals")


JOBS: dict[str, tuple[Build, Callable[[pa.Table], pa.Table]]] = {
    "hot items": (hot_items, oracle.hot_items),
    "sessions": (lambda bids: sessions(bids, "200ms"), lambda bids: oracle.sessions(bids, gap_us=200_000)),
    "running totals": (final_totals, lambda bids: oracle.running_totals(bids, "bidder", "price")),
}


def start(
    job: str,
    folder: Path,
    parallelism: int = 2,
    restore: str = "latest",
    out: str = "out",
    rate: float | None = None,
    name: str = APP,
    interval: str | None = "50ms",
    repeated: bool = False,
    max_parallelism: int = 128,
    held: bool = False,
) -> fr.JobHandle:
    """`held`: it takes in most of the rows, and waits for `let_go`."""
    checkpointing = fr.Checkpointing(interval=interval, min_pause="0s", storage=f"file://{folder}/checkpoints")
    os.environ["FLINKRAY_RUN_OPTIONS"] = f'{{"restore": "{restore}", "allow_repeated_output": {str(repeated).lower()}}}'
    try:
        env = fr.StreamEnvironment(
            name, parallelism=parallelism, max_parallelism=max_parallelism, runtime="local", checkpointing=checkpointing
        )
        source: Source = fr.sources.Nexmark("bid", rows=ROWS, rate=rate)
        if held:
            source = Held(source, ROWS * 4 // 5, gate(folder))
        bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
        JOBS[job][0](bids).sink_to(fr.sinks.Parquet(str(folder / out)), uid="out")
        return env.execute_async()
    finally:
        del os.environ["FLINKRAY_RUN_OPTIONS"]


def running(job: str, folder: Path, checkpoints: int = 4, parallelism: int = 2, rate: float = 15_000) -> fr.JobHandle:
    """Held, so that it is there for as long as the test wants it."""
    handle = start(job, folder, parallelism, rate=rate, held=True)
    until_checkpoints(handle, checkpoints)
    return handle


def gate(folder: Path) -> str:
    return str(folder / "gate")


def let_go(folder: Path) -> None:
    Path(gate(folder)).touch()


def answer(job: str) -> pa.Table:
    return JOBS[job][1](nexmark_table("bid", ROWS, 0))


def check(job: str, *outputs: Path) -> None:
    expected = answer(job)
    tables = [pq.read_table(output).select(expected.column_names) for output in outputs]
    oracle.same(pa.concat_tables(tables), expected)


def storage(folder: Path) -> str:
    return f"file://{folder}/checkpoints"


def reader(folder: Path, name: str = APP) -> StateReader:
    return StateReader(storage(folder), name)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("parallelism", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_cancelled_after_a_savepoint_it_goes_on_from_there_at_another_parallelism(job: str, parallelism: int, tmp_path: Path) -> None:
    handle = running(job, tmp_path)
    made = handle.savepoint("here", timeout=TIMEOUT_S)
    cancel(handle)
    again = start(job, tmp_path, parallelism, "savepoint:here", "second", rate=None)
    assert again.wait(TIMEOUT_S).records_in == ROWS, "counters go on from the savepoint"
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in (tmp_path / "out").glob("*.parquet"):  # what the savepoint's past has shown
        if int(path.name.split("-k")[1].split("-")[0]) <= made["checkpoint"]:
            path.rename(kept / path.name)
    check(job, *([kept, tmp_path / "second"] if list(kept.iterdir()) else [tmp_path / "second"]))


def test_a_savepoint_refers_to_no_checkpoint_and_a_run_restored_from_it_to_no_savepoint(tmp_path: Path) -> None:
    handle = running("running totals", tmp_path)
    handle.savepoint("free", timeout=TIMEOUT_S)
    cancel(handle)
    saved = fr.read_state(storage(tmp_path), APP, "totals", at="savepoint:free").sort_by("bidder")
    again = start("running totals", tmp_path, 3, "savepoint:free", rate=15_000, held=True)
    until_checkpoints(again, 3)
    root = tmp_path / "checkpoints" / APP
    assert fr.read_state(storage(tmp_path), APP, "totals", at="savepoint:free").sort_by("bidder").equals(saved)
    reader(tmp_path).savepoints.delete("free")
    assert [path for path in (root / "savepoints").rglob("*") if path.is_file()] == []
    cancel(again)
    third = start("running totals", tmp_path, 1, "latest")
    assert third.wait(TIMEOUT_S).records_in == ROWS
    check("running totals", tmp_path / "out")


def test_two_savepoints_of_one_run_each_give_their_own_continuation(tmp_path: Path) -> None:
    handle = running("sessions", tmp_path)
    handle.savepoint("first", timeout=TIMEOUT_S)
    until_checkpoints(handle, handle.status()["checkpoints"]["completed"] + 6)
    handle.savepoint("second", timeout=TIMEOUT_S)
    cancel(handle)
    for name in ("second", "first"):  # the older one after the newer
        again = start("sessions", tmp_path, 2, f"savepoint:{name}", out=name)
        assert again.wait(TIMEOUT_S).records_in == ROWS
        checkpoint = reader(tmp_path).savepoints.describe(name).document()["checkpoint"]
        past = tmp_path / f"past of {name}"
        past.mkdir()
        for path in (tmp_path / "out").glob("*.parquet"):
            if int(path.name.split("-k")[1].split("-")[0]) <= checkpoint:
                os.link(path, past / path.name)
        check("sessions", *([past] if list(past.iterdir()) else []), tmp_path / name)
    assert [info.state for info in reader(tmp_path).savepoints.list()] == [SavepointState.READY] * 2


def test_into_an_output_with_later_rows_it_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    handle = running("sessions", tmp_path)
    handle.savepoint("early", timeout=TIMEOUT_S)
    let_go(tmp_path)
    handle.wait(TIMEOUT_S)
    check("sessions", tmp_path / "out")
    root = tmp_path / "checkpoints" / APP
    before = sorted((str(path), path.stat().st_size) for path in root.rglob("*") if path.is_file())
    with pytest.raises(
        fr.RestoreError, match=r"shows rows of checkpoint \d+, savepoint 'early' is of checkpoint .*--allow-repeated-output"
    ):
        start("sessions", tmp_path, 2, "savepoint:early").wait(TIMEOUT_S)
    assert sorted((str(path), path.stat().st_size) for path in root.rglob("*") if path.is_file() and "probe" not in str(path)) == [
        entry for entry in before if "probe" not in entry[0]
    ]
    again = start("sessions", tmp_path, 2, "savepoint:early", repeated=True)
    assert again.wait(TIMEOUT_S).records_in == ROWS


def test_a_copy_is_restored_under_another_name_in_another_place_with_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = running("hot items", tmp_path)
    handle.savepoint("x", timeout=TIMEOUT_S)
    cancel(handle)
    source = reader(tmp_path).savepoints
    generate_key_file(str(tmp_path / "other.key"))
    elsewhere = tmp_path / "elsewhere"
    target = StateReader(storage(elsewhere), "moved", fr.KeyFile(str(tmp_path / "other.key"))).savepoints
    header = source.copy("x", target, "y")
    assert (header.name, header.application) == ("y", "moved")
    monkeypatch.setenv("FLINKRAY_KEY", str(tmp_path / "other.key"))
    again = start("hot items", elsewhere, 3, "savepoint:y", name="moved")
    assert again.wait(TIMEOUT_S).records_in == ROWS
    shown = pq.read_table(elsewhere / "out")
    whole = answer("hot items")
    ends = shown.column("window_end").cast(pa.int64()).to_pylist()
    assert ends
    later = whole.filter(pa.compute.greater_equal(whole.column("window_end").cast(pa.int64()), min(ends)))
    oracle.same(shown.select(whole.column_names), later)


@pytest.mark.parametrize("kind", ["unknown", "other application", "max_parallelism", "flip", "lose", "other key"])
def test_every_refusal_leaves_savepoint_and_checkpoints_as_they_were(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = running("running totals", tmp_path)
    handle.savepoint("good", timeout=TIMEOUT_S)
    cancel(handle)
    root = tmp_path / "checkpoints" / APP
    wanted, name, more, error = "savepoint:good", APP, 128, r"."
    if kind == "unknown":
        wanted, error = "savepoint:bad", "no savepoint 'bad' of named in .*; there are: good"
    elif kind == "other application":
        (root / "savepoints").rename(tmp_path / "savepoints")
        (tmp_path / "checkpoints" / "stranger").mkdir()
        (tmp_path / "savepoints").rename(tmp_path / "checkpoints" / "stranger" / "savepoints")
        name, error = "stranger", "belongs to application 'named', not to 'stranger'"
    elif kind == "max_parallelism":
        more, error = 64, "max_parallelism 128, the job has 64"
    elif kind in ("flip", "lose"):
        victim = max((root / "savepoints" / "good").rglob("data/*"))
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
        if kind == "lose":
            victim.unlink()
        error = "is damaged: .*savepoint 'good' cannot be restored"
    else:
        generate_key_file(str(tmp_path / "other.key"))
        monkeypatch.setenv("FLINKRAY_KEY", str(tmp_path / "other.key"))
        error = "give the key it was written with"

    def files() -> list[tuple[str, bytes]]:
        return sorted(
            (str(path), path.read_bytes())
            for path in (tmp_path / "checkpoints").rglob("*")
            if path.is_file() and "/probe/" not in str(path)
        )

    before = files()
    while (again := files()) != before or time.sleep(0.3) or files() != again:  # the cancelled run's last sweep and upload
        before = files()
    with pytest.raises(fr.FlinkrayError, match=error) as raised:
        start("running totals", tmp_path, 2, wanted, name=name, out="new", max_parallelism=more).wait(TIMEOUT_S)
    assert raised.value.exit_code in (1, 2)
    assert files() == before


def test_names_are_checked_and_taken_once(tmp_path: Path) -> None:
    handle = running("running totals", tmp_path)
    try:
        made = handle.savepoint("a.b-c_D9", timeout=TIMEOUT_S)
        assert made["state"] == "READY"
        assert made["bytes"] > 0
        assert set(made) >= {"created_at", "checkpoint", "claim", "fingerprint", "code_digest", "package_version", "key_id"}
        with pytest.raises(fr.UsageError, match=r"'a.b-c_D9' of named exists already \(READY\); names are taken once"):
            handle.savepoint("a.b-c_D9", timeout=TIMEOUT_S)
        for bad in ("", "a/b", "x" * 257, "ä"):
            with pytest.raises(fr.UsageError, match="use 1 to 256 of"):
                handle.savepoint(bad, timeout=TIMEOUT_S)
        for good in ("x" * 256, "..", "intent"):
            assert handle.savepoint(good, timeout=TIMEOUT_S)["name"] == good
        assert [info.name for info in reader(tmp_path).savepoints.list()] == sorted(["a.b-c_D9", "x" * 256, "..", "intent"])
    finally:
        cancel(handle)
    with pytest.raises(fr.JobFailedError, match=r"the job has ended \(CANCELLED\)"):
        handle.savepoint("late")


def test_a_savepoint_holds_what_came_before_it_and_carries_no_transaction(tmp_path: Path) -> None:
    handle = running("sessions", tmp_path)
    handle.savepoint("s", timeout=TIMEOUT_S)
    cancel(handle)
    header, source = reader(tmp_path).savepoints.read("s")
    assert source.manifest.transactions == {}
    assert source.problems() == []
    assert fr.read_state(storage(tmp_path), APP, "out", at="savepoint:s", state="transactions").num_rows == 0
    assert (header.rows, header.bytes) == (source.manifest.stats.rows, source.manifest.stats.written_bytes)
    assert all(name.startswith("data/") for name in source.manifest.object_names)
