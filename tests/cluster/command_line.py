"""The command line as a person uses it: `flinkray ...` in processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

TIMEOUT_S = 90.0
READ_ONLY_LIMIT_S = 5.0

ENDLESS = """
import flinkray as fr
env = fr.StreamEnvironment("endless", checkpointing=fr.Checkpointing(interval="500ms", min_pause="50ms"), high_availability=fr.HighAvailability(standbys=0))
bids = env.from_source(fr.sources.Nexmark(stream="bid", rows=100_000_000, rate=5_000), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
bids.key_by("auction").window(fr.windows.Tumbling("1s")).aggregate(bids=fr.agg.count()).uid("count").sink_to(fr.sinks.Blackhole(), uid="out")
print(env.execute().status)
"""
"""A job of some hours, with a checkpoint twice a second."""


def environment(**more: str) -> dict[str, str]:
    """This process's, without a cluster that it may know of."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "FLINKRAY_RUNTIME", "FLINKRAY_PROGRESS")}
    return {**kept, "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flinkray.cli", *arguments]


def flinkray(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. `more`: environment variables."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(**more), check=False)


def write_script(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(text)
    return str(path)


@contextmanager
def in_background(folder: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on. Its output is in `folder`/stdout and stderr; ended, at the latest, with the block."""
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        process = subprocess.Popen(
            command(*arguments), stdout=out, stderr=err, stdin=subprocess.DEVNULL, text=True, env=environment(**more)
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def status(name: str, **more: str) -> dict[str, Any]:
    """`flinkray status NAME --json`, which prints one document and answers in time."""
    asked_at = time.monotonic()
    answer = flinkray("status", name, "--json", **more)
    assert answer.returncode == 0, answer.stderr
    assert time.monotonic() - asked_at < READ_ONLY_LIMIT_S
    return json.loads(answer.stdout)


def until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.1)
    return found


def until_running(name: str, checkpoints: int = 1) -> dict[str, Any]:
    """The record of the job in this test's home, once it runs and has `checkpoints`. Reads the file: a command a poll would be slow."""
    path = Path(os.environ["FLINKRAY_HOME"]) / "jobs" / f"{name}.json"

    def running() -> dict[str, Any] | None:
        document = json.loads(path.read_text())["status"] if path.exists() else None
        ready = document and document["status"] == "RUNNING" and document["checkpoints"]["completed"] >= checkpoints
        return document if ready else None

    return until(running, f"job {name} to run")


def in_cluster(address: str, name: str) -> dict[str, Any]:
    """The job's status as the cluster knows it, `{}` when it does not; read here, since a command for each look would be slow."""
    from flinkray.runtime.ray.status_copy import read_copies

    record = read_copies(address, "disabled", name).get(name)
    return record["status"] if record is not None else {}


def until_in_cluster(address: str, name: str, wanted: str, checkpoints: int = 0) -> dict[str, Any]:
    def found() -> dict[str, Any]:
        known = in_cluster(address, name)
        return known if known and known["status"] == wanted and known["checkpoints"]["completed"] >= checkpoints else {}

    return until(found, f"{name} to be {wanted}")


def processes_of(home: str) -> list[str]:
    """Processes that were started with this home, other than this one."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            if process.pid != os.getpid() and process.environ().get("FLINKRAY_HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.info['cmdline'])[:120]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def nothing_is_left_running() -> None:
    home = os.environ["FLINKRAY_HOME"]
    until(lambda: not processes_of(home), f"the end of {processes_of(home)}", timeout_s=20)


def nothing_is_left_in_the_cluster(job: str) -> None:
    """No actor and no reserved CPU of the job in the cluster that this process is in."""
    import ray

    def left() -> list[Any]:
        actors = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["name"].startswith(f"{job}/")]
        groups = [
            group
            for group in ray.util.placement_group_table().values()
            if group["name"] == f"flinkray/{job}" and group["state"] != "REMOVED"
        ]
        return [*actors, *groups]

    until(lambda: not left(), f"the end of {left()}", timeout_s=20)
