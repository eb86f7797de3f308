"""A TaskManager, or the leader, killed while a job on Ray makes a savepoint, stops, drains or is rescaled: STOPPED with everything committed, or
running with nothing lost. Slow: pytest -m slow tests/chaos/test_kill_while_stopping.py"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import flinkray as fr
from flinkray.api.job_handle import JobHandle
from flinkray.checkpoint.key_providers import generate_key_file
from flinkray.checkpoint.savepoints import SavepointState
from flinkray.checkpoint.state_reader import StateReader
from flinkray.errors import FlinkrayError
from jobs.sessions import sessions
from tests.golden.test_savepoints import ROWS as ALL
from tests.golden.test_savepoints import check
from tests.held import Held

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TIMEOUT_S = 90.0


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, runtime: str, restore: str = "latest", held: bool = True) -> JobHandle:
    monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": restore}))
    key = fr.KeyFile(str(folder / "key"))
    checkpointing = fr.Checkpointing(interval="100ms", min_pause="0s", storage=f"file://{folder}/checkpoints", key=key)
    env = fr.StreamEnvironment(name, parallelism=2, runtime=runtime, checkpointing=checkpointing)  # type: ignore[arg-type]
    source: object = fr.sources.Nexmark("bid", rows=ALL, rate=8_000 if held else None)
    source = Held(source, ALL * 2 // 5, str(folder / "gate")) if held else source  # type: ignore[arg-type]
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")  # type: ignore[arg-type]
    sessions(bids, "200ms").sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")
    return env.execute_async()


def kill_soon(job: JobHandle, victim: str, after_s: float) -> threading.Thread:
    status = job.status()
    active = [tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"]
    pid = int(status["leader"]["pid"] if victim == "leader" else active[-1])

    def strike() -> None:
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


@pytest.mark.timeout(400)
@pytest.mark.parametrize("victim", ["task manager", "leader"])
@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1, 0.25])
@pytest.mark.parametrize("what", ["stop", "rescale", "savepoint"])
def test_a_kill_while_it_is_done(what: str, victim: str, after_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_key_file(str(tmp_path / "key"))
    name = f"killed-{what}-{victim.replace(' ', '')}-{int(after_s * 1000)}"
    job = start(tmp_path, monkeypatch, name, "ray")
    deadline = time.monotonic() + TIMEOUT_S
    while (status := job.status())["checkpoints"]["completed"] < 3 or not status["standbys"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    strike = kill_soon(job, victim, after_s)
    try:
        if what == "stop":
            job.stop("s", timeout=TIMEOUT_S)
        elif what == "rescale":
            job.rescale(3, TIMEOUT_S)
        else:
            job.savepoint("s", TIMEOUT_S)
        outcome = "done"
    except FlinkrayError as error:
        outcome = str(error)
    strike.join()
    print(f"\n{what}, {victim} killed after {after_s} s: {outcome}")
    if what != "stop" or outcome != "done":
        assert "runs on" in outcome or outcome == "done" or "exists" in outcome, outcome
        job.stop("last", timeout=TIMEOUT_S)
    savepoints = StateReader(f"file://{tmp_path}/checkpoints", name, fr.KeyFile(str(tmp_path / "key"))).savepoints
    ready = [info.name for info in savepoints.list() if info.state is SavepointState.READY]
    last = "s" if what == "stop" and outcome == "done" else "last"
    assert last in ready
    for each in ready:
        assert savepoints.read(each)[1].problems() == []
    assert start(tmp_path, monkeypatch, name, "local", f"savepoint:{last}", held=False).wait(TIMEOUT_S).records_in == ALL
    check("sessions", tmp_path / "out")
