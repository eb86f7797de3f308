"""`flinkray demo`: hot items (Nexmark query 5) on a local Ray, a TaskManager and the leading JobManager killed on the way, the answer checked
against DuckDB."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import flinkray as fr
from flinkray.api.job_handle import JobHandle
from flinkray.connectors.nexmark import nexmark_table
from flinkray.errors import FlinkrayError, UsageError
from flinkray.runtime.submit import begin_to_compile
from flinkray.state.warm import KEYED

ROWS, RATE = 2_000_000, 200_000
FAST_ROWS, FAST_RATE = 800_000, 100_000
KILL_AFTER_CHECKPOINTS = 2
GIVE_UP_S = 120.0

HOT_ITEMS_SQL = """
with panes as (
    select auction, date_trunc('second', date_time) - to_seconds((second(date_time)::bigint % 2)) as pane, count(*) as bids from bids group by all
), windows as (
    select auction, pane - to_seconds(2 * i) as window_start, sum(bids)::bigint as bids from panes, range(5) as steps(i) group by all
), ranked as (
    select *, rank() over (partition by window_start order by bids desc) as place from windows
)
select auction, window_start, bids from ranked where place = 1
"""


def hot_items(env: fr.StreamEnvironment, rows: int, rate: float, out: str) -> None:
    """Per sliding window of 10 s, every 2 s, the auctions with the most bids."""
    bids = env.from_source(
        fr.sources.Nexmark(stream="bid", rows=rows, rate=rate), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids"
    )
    (
        bids.key_by("auction")
        .window(fr.windows.Sliding("10s", "2s"))
        .aggregate(bids=fr.agg.count())
        .uid("count")
        .window_all(fr.windows.Tumbling("2s"))
        .top_n(1, by="bids")
        .uid("hottest")
        .sink_to(fr.sinks.Parquet(out, mode="overwrite"), uid="out")
    )


def demo(fast: bool) -> int:
    """Returns the exit code: 0 when the answers are equal."""
    try:
        import duckdb
    except ImportError as error:
        raise UsageError("the demo checks its answer with DuckDB; install it with: pip install 'flinkray[demo]'") from error
    begin_to_compile([KEYED])  # while the rest is still being imported
    rows, rate = (FAST_ROWS, FAST_RATE) if fast else (ROWS, RATE)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flinkray-demo-") as folder:
        _say(
            f"hot items: {rows:,} generated bids at {rate:,} a second, 2 TaskManagers and a warm spare, a standby JobManager, a checkpoint every second"
        )
        env = fr.StreamEnvironment(
            "demo",
            parallelism=2,
            runtime="ray",
            checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{folder}/checkpoints"),
        )
        out = os.path.join(folder, "out")
        hot_items(env, rows, rate, out)
        print(env.explain(), file=sys.stderr)
        result = _run_and_kill(env.execute_async())
        answer = pq.read_table(out).select(["auction", "window_start", "bids"])
    _say(f"{result.status}: {result.records_in:,} rows in, {result.records_out:,} out, {result.restarts} restart(s)")
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    con.register("bids", nexmark_table("bid", rows, 0).select(["auction", "date_time"]))
    expected = con.sql(HOT_ITEMS_SQL).to_arrow_table()
    equal = _rows(answer) == _rows(expected)
    for auction, start, bids in _rows(answer)[-3:]:
        _say(f"window from {start}: auction {auction} with {bids:,} bids")
    verdict = "the same" if equal else "DIFFERENT"
    _say(
        f"flinkray {answer.num_rows} rows, DuckDB over the same bids {expected.num_rows} rows: {verdict} ({time.monotonic() - started:.0f} s in all)"
    )
    return 0 if equal else 1


def _run_and_kill(job: JobHandle) -> fr.JobResult:
    """Follow the job; after the second checkpoint, kill -9 one of its TaskManagers; once it runs again, kill -9 its leading JobManager."""
    from flinkray.runtime.progress import View

    view = View(job, "live" if sys.stderr.isatty() else "plain")
    victims = ["task manager", "leader"]
    deadline = time.monotonic() + GIVE_UP_S
    try:
        while True:
            try:
                result = job.wait(timeout=0.2)
            except fr.WaitTimeoutError:
                if time.monotonic() > deadline:
                    raise
            else:
                view.finish()
                return result
            view.show()
            status = job.status()
            if victims and _may_kill(victims[0], status):
                view.pause()
                _kill(victims.pop(0), status)
    except (KeyboardInterrupt, FlinkrayError):
        job.cancel()
        raise


def _may_kill(victim: str, status: dict[str, Any]) -> bool:
    if status["status"] != "RUNNING":
        return False
    if victim == "leader":
        return status["restarts"] > 0 and bool(status["standbys"])
    return status["checkpoints"]["completed"] >= KILL_AFTER_CHECKPOINTS


def _kill(victim: str, status: dict[str, Any]) -> None:
    if victim == "leader":
        pid = status["leader"]["pid"]
        _say(f"kill -9 {pid} (the leading JobManager; {status['standbys'][0]['pid']} stands by, and no task will notice)")
    else:
        task_manager = next(tm for tm in status["task_managers"] if tm["role"] == "active")
        pid = task_manager["pid"]
        _say(f"kill -9 {pid} ({task_manager['id']}, running {', '.join(task_manager['tasks'])})")
    os.kill(pid, signal.SIGKILL)


def _rows(table: pa.Table) -> list[tuple]:
    micros = table.set_column(1, "window_start", table["window_start"].cast(pa.timestamp("us", "UTC")))
    return sorted(
        zip(*(micros[name].to_pylist() for name in ("auction", "window_start", "bids")), strict=True), key=lambda row: (row[1], row[0])
    )


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)
