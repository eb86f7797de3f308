"""Make savepoints to be kept: `python -m tests.golden.keep_savepoints NAME...` (of `kept_jobs.KEPT`; without names all that are not there).

Each job runs at parallelism 2 until its sources stand still in the middle, is stopped with savepoint "golden", and what it had shown by then is kept
beside it (`shown.parquet`; not there where nothing was). What is there is never made again: that it was written by an older flinkray is its use.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import flinkray as fr
from flinkray.connectors.base import Source
from tests.golden.kept_jobs import KEPT, Inputs
from tests.held import Held

FOLDER = Path(__file__).parent / "savepoint_format_1"
TIMEOUT_S = 60.0


def application(name: str) -> str:
    return f"kept-1-{name}"


def environment(name: str, storage: str, parallelism: int, options: dict[str, Any] | None = None) -> fr.StreamEnvironment:
    """Small batches, so that a source stands where it was told to, and state is of rows in many batches."""
    key = fr.KeyFile(str(FOLDER / "key"))
    checkpointing = fr.Checkpointing(interval="20ms", min_pause="0s", storage=storage, key=key, storage_options=options)
    return fr.StreamEnvironment(application(name), parallelism=parallelism, runtime="local", checkpointing=checkpointing, batch_rows=50)


def run(name: str, env: fr.StreamEnvironment, out: Path, gate: str | None = None) -> fr.JobHandle:
    """`gate`: sources stop in the middle until this file is there."""
    gates = 0

    def hold(source: Source, rows: int) -> Source:
        nonlocal gates
        gates += 1
        return source if gate is None else Held(source, rows, f"{gate}-{gates}")

    kept = KEPT[name]
    built = kept.build(Inputs(env, hold))
    built.sink_to(fr.sinks.Parquet(str(out), changelog=bool(kept.key or kept.retracts)), uid="out")
    return env.execute_async()


def keep(name: str, work: Path) -> int:
    """Returns its bytes."""
    handle = run(name, environment(name, f"file://{work}/storage", 2), work / "out", str(work / "gate"))
    until_still(handle)
    assert handle.stop(savepoint="golden", timeout=TIMEOUT_S).status == "STOPPED"
    target = FOLDER / application(name)
    shutil.copytree(work / "storage" / application(name) / "savepoints", target / "savepoints")
    if any((work / "out").glob("*.parquet")):
        pq.write_table(pq.read_table(work / "out").combine_chunks(), target / "shown.parquet")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def until_still(handle: fr.JobHandle) -> None:
    """The sources have read what they may, and five checkpoints later it is the same."""
    deadline = time.monotonic() + TIMEOUT_S
    read, since = -1, 0
    while True:
        status = handle.status()
        assert status["status"] != "FAILED", status
        completed = status["checkpoints"]["completed"]
        if status["records_in"] != read or not read:
            read, since = status["records_in"], completed
        elif completed >= since + 5:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def main() -> None:
    for name in sys.argv[1:] or [name for name in KEPT if not (FOLDER / application(name)).exists()]:
        with tempfile.TemporaryDirectory() as work:
            print(f"{name}: {keep(name, Path(work))} bytes")


if __name__ == "__main__":
    main()
