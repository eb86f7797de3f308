"""Recovery: kill -9 of a TaskManager, and the time until the first row at the sink's input that was not there before. Median of several.

    PYTHONPATH=. python benchmarks/recovery.py [--kills 5] [--rate 100000] [--keys N] [--local-copies-mb 256] [--json FILE]

Hot items over a throttled source on the Ray runtime, parallelism 2, a warm spare, checkpoints every second. The sink's input is watched by a
ProbeSink (flinkray.testing.sentinels); new is a row that the restarted attempt gives, of a window later than every window seen before. Rows
between the last checkpoint and the kill are read again before, as fast as they can be (the rate holds for rows since the start, as it would
for a log that others write to); then the next window has to end. With `--keys` the job is a count and a maximum for each of so many keys instead, and
kills begin when all of them are in the state and in a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import flinkray as fr
from flinkray.connectors.datagen import sequence
from flinkray.testing.sentinels import ProbeSink, read_probe
from jobs.hot_items import hot_items

SETTLE_S = 3.0


def measure(kills: int, rate: float, keys: int, local_copies_mb: int) -> list[float]:
    """Seconds for each kill, at moments that a seed chooses; the job runs on between them. `keys` 0: hot items."""
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        env = fr.StreamEnvironment(
            f"recovery-{os.getpid()}",
            parallelism=2,
            checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{folder}/checkpoints"),
            resources=fr.Resources(local_copies_mb=local_copies_mb),
        )
        log, rows = f"{folder}/probe", int(rate * (kills + 2) * (SETTLE_S + 6)) + 2 * keys
        if keys:
            _counts(env, rows, rate, keys, log)
        else:
            source = fr.sources.Nexmark("bid", rows=rows, rate=rate)
            bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
            hot_items(bids).sink_to(ProbeSink(fr.sinks.Blackhole(), log, "window_start"), uid="out")
        job = env.execute_async()
        _wait_for_keys(job, keys)
        taken = []
        try:
            for number in range(kills):
                _wait_until_calm(job)
                time.sleep(SETTLE_S + rng.random())
                taken.append(_kill_one(job, log, number))
        finally:
            job.cancel()
            _wait_for_the_end(job)
    return taken


def _counts(env: fr.StreamEnvironment, rows: int, rate: float, keys: int, log: str) -> None:
    numbers = env.from_source(fr.sources.Datagen(rows, {"n": sequence()}, rate=rate), uid="numbers")
    counts = numbers.with_columns(key=fr.col("n") % keys).key_by("key").aggregate(n=fr.agg.max("n"), rows=fr.agg.count()).uid("counts")
    counts.sink_to(ProbeSink(fr.sinks.Blackhole(), log, "n"), uid="out")


def _wait_for_keys(job: fr.JobHandle, keys: int) -> None:
    """All of them are in the state, and then in a checkpoint."""
    while (status := job.status())["state"]["rows"] < keys:
        time.sleep(0.05)
    complete = status["checkpoints"]["completed"]
    while keys and job.status()["checkpoints"]["completed"] < complete + 2:
        time.sleep(0.05)


def _wait_until_calm(job: fr.JobHandle) -> None:
    """Running, and the spare is warm again."""
    while True:
        status = job.status()
        if status["status"] == "RUNNING" and any(tm["role"] == "spare" for tm in status["task_managers"]):
            return
        if status["status"] in ("FAILED", "FINISHED"):
            raise SystemExit(f"the job ended: {status['status']} {status['error']}")
        time.sleep(0.05)


def _kill_one(job: fr.JobHandle, log: str, number: int) -> float:
    status = job.status()
    active = [tm for tm in status["task_managers"] if tm["role"] == "active"]
    victim = active[number % len(active)]
    os.kill(victim["pid"], signal.SIGKILL)
    killed_at = time.time()
    while True:
        lines = read_probe(log)
        before = max(line["max"] for line in lines if line["attempt"] <= status["attempt"])
        new = next((line["at"] for line in lines if line["attempt"] > status["attempt"] and line["max"] > before), None)
        if new is not None:
            print(f"kill {number + 1}: {victim['id']} (pid {victim['pid']}): {new - killed_at:.3f} s", flush=True)
            return new - killed_at
        time.sleep(0.02)


def _wait_for_the_end(job: fr.JobHandle) -> None:
    try:
        job.wait(timeout=30)
    except fr.JobCancelledError:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100_000)
    parser.add_argument("--keys", type=int, default=0, help="running counts of so many keys instead of hot items")
    parser.add_argument("--local-copies-mb", type=int, default=256)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    taken = measure(options.kills, options.rate, options.keys, options.local_copies_mb)
    print(f"median of {len(taken)}: {statistics.median(taken):.3f} s (from {min(taken):.3f} to {max(taken):.3f})")
    if options.json:
        Path(options.json).write_text(json.dumps({"seconds": taken, "median": statistics.median(taken)}, indent=2))


if __name__ == "__main__":
    main()
