"""kill -9 of the leading JobManager under load, ten times: how long nobody leads, and whether the rows notice.

    PYTHONPATH=. python benchmarks/failover.py [--kills 10] [--rate 100000] [--json FILE]

The job is hot items over generated bids, at parallelism 2 on a Ray of its own, one standby, checkpoints every second. Led again: from the kill to
the status RUNNING of the next leader, as a client sees it. Gap: the longest time without a batch at the sink's input, beside that of an equal run
without kills. Exit code 1 when a task was restarted, a TaskManager replaced, or the answer differs from DuckDB's over the same bids.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

import flinkray as fr
from flinkray.api.job_handle import JobHandle
from flinkray.connectors.nexmark import nexmark_table
from flinkray.demo import HOT_ITEMS_SQL
from flinkray.testing.sentinels import ProbeSink, read_probe
from jobs.hot_items import hot_items

BETWEEN_S = 3.0
WARM_S = 3.0
"""After the first batch, left out of the gaps."""


def start(folder: Path, rows: int, rate: float) -> JobHandle:
    env = fr.StreamEnvironment(
        f"failover-{folder.name}", parallelism=2, checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{folder}/checkpoints")
    )
    bids = env.from_source(fr.sources.Nexmark("bid", rows=rows, rate=rate), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
    sink = ProbeSink(fr.sinks.Parquet(f"{folder}/out"), f"{folder}/probe", "window_start")
    hot_items(bids).sink_to(sink, uid="out")
    return env.execute_async()


def pids(status: dict[str, Any]) -> set[int]:
    return {tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"}


def kill_leaders(job: JobHandle, kills: int) -> tuple[list[float], bool]:
    """(seconds until led again, whether every task stayed where it was)."""
    took: list[float] = []
    before: dict[str, Any] | None = None
    while len(took) < kills:
        status = job.status()
        if status["status"] != "RUNNING" or not status["standbys"] or status["checkpoints"]["completed"] < 1:
            time.sleep(0.05)
            continue
        before = before or status
        pid = status["leader"]["pid"]
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while (status := job.status())["leader"]["pid"] == pid or status["status"] != "RUNNING":
            time.sleep(0.005)
        took.append(time.monotonic() - killed_at)
        time.sleep(BETWEEN_S)
    assert before is not None
    return took, status["attempt"] == before["attempt"] and pids(status) == pids(before)


def longest_gap_s(folder: Path) -> float:
    times = [line["at"] for line in read_probe(f"{folder}/probe")]
    return max(b - a for a, b in pairwise(at for at in times if at > times[0] + WARM_S))


def is_right(folder: Path, rows: int) -> bool:
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    con.register("bids", nexmark_table("bid", rows, 0).select(["auction", "date_time"]))
    con.register("answer", pq.read_table(folder / "out").select(["auction", "window_start", "bids"]))
    con.sql(f"create table expected as {HOT_ITEMS_SQL}")
    missing = con.sql("select count(*) from (from expected except all from answer)").fetchall()[0][0]
    extra = con.sql("select count(*) from (from answer except all from expected)").fetchall()[0][0]
    return missing == extra == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = int(options.rate * (BETWEEN_S + 1.5) * (options.kills + 2))
    with tempfile.TemporaryDirectory() as name:
        calm, stormy = Path(name) / "calm", Path(name) / "stormy"
        calm.mkdir()
        stormy.mkdir()
        start(calm, rows, options.rate).wait()
        job = start(stormy, rows, options.rate)
        took, stayed = kill_leaders(job, options.kills)
        result = job.wait()
        right = is_right(stormy, rows)
        gaps = {"without kills": longest_gap_s(calm), "with kills": longest_gap_s(stormy)}
    stayed = stayed and result.restarts == 0
    print(f"led again after {statistics.median(took):.2f} s (median of {len(took)}; {min(took):.2f} to {max(took):.2f})")
    print(f"longest gap at the sink: {gaps['with kills'] * 1e3:.0f} ms, without kills {gaps['without kills'] * 1e3:.0f} ms")
    print(
        f"tasks {'all stayed' if stayed else 'WERE RESTARTED'}; the answer is {'the same as' if right else 'DIFFERENT from'} DuckDB's over the same bids"
    )
    if options.json:
        Path(options.json).write_text(json.dumps({"led_again_s": took, "gap_s": gaps, "stayed": stayed, "right": right}, indent=2))
    sys.exit(0 if stayed and right else 1)


if __name__ == "__main__":
    main()
