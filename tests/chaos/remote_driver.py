"""A driver in a process of its own, perhaps on another host: it starts a job and answers questions about it, one JSON line each.

`python -m tests.chaos.remote_driver ADDRESS SETTINGS` (JSON) reads requests from its standard input; answers begin with `@@`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import flinkray as fr
from flinkray.connectors.nexmark import nexmark_table
from flinkray.core.journal_records import Elected, JournalRecord
from flinkray.testing.sentinels import ProbeSink, read_probe
from tests.cluster.command_line import environment
from tests.counted import Counted, rows_read
from tests.golden.oracle import hot_items, same

SETTLE_S = 90.0

Status = dict[str, Any]


# -- the side of the test -----------------------------------------------------------------------------------------------


class RemoteJob:
    """`prefix`: a command that runs another one where the driver belongs."""

    def __init__(self, folder: Path, address: str, prefix: Sequence[str] = (), **settings: Any) -> None:
        self.folder = folder
        self.settings = {"name": "remote", "folder": str(folder), "rows": 800_000, "rate": 20_000, "parallelism": 2, **settings}
        home = {"FLINKRAY_HOME": str(settings["home"])} if "home" in settings else {}
        command = [*prefix, sys.executable, "-m", "tests.chaos.remote_driver", address, json.dumps(self.settings)]
        with open(folder / "driver-errors", "a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(**home)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        watchdog = threading.Timer(2 * SETTLE_S, self._process.send_signal, [signal.SIGKILL])
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith("@@"):
                    return json.loads(line[2:])
        finally:
            watchdog.cancel()
        raise AssertionError(f"the driver ended: {(self.folder / 'driver-errors').read_text()[-4000:]}")

    def status(self) -> Status:
        return self.ask("status")

    def until(self, condition: Callable[[Status], Any], timeout_s: float = SETTLE_S) -> Status:
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status and condition(status):
                return status
            assert time.monotonic() < deadline, f"waited in vain; the last status is {status}; it said {self.ask('lines')}"
            assert not status or status["status"] not in ("FAILED", "FINISHED"), (status, self.ask("lines"))
            time.sleep(0.1)

    def finish(self) -> Status:
        """Exact output; the journal told of one leader at a time."""
        journal = self.ask("journal")
        result = self.ask("wait")
        assert result["status"] == "FINISHED", (result, self.ask("lines"))
        self.check_output()
        assert result["records_in"] == self.settings["rows"], result
        return result | {"journal": journal}

    def read(self) -> int:
        """Rows read by all processes together, those that were read again counted each time."""
        return rows_read(self.folder / "reads")

    def probed(self) -> int:
        """How often rows have come to the sink."""
        return len(read_probe(f"{self.folder}/probe"))

    def check_output(self) -> None:
        expected = hot_items(nexmark_table("bid", self.settings["rows"], 0)).select(["auction", "window_start", "bids"])
        same(pq.read_table(self.folder / "out").select(expected.column_names), expected)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def one_leader_at_a_time(records: Sequence[JournalRecord]) -> list[int]:
    """The elections. Raises AssertionError when a leader wrote after another was elected."""
    elections: list[int] = []
    token = ""
    for record in records:
        if isinstance(record.entry, Elected):
            assert not elections or record.entry.election > elections[-1], records
            elections.append(record.entry.election)
            token = record.token
        assert record.token == token, f"{record} after election {elections}"
    return elections


def ready(checkpoints: int = 2) -> Callable[[Status], bool]:
    """It runs, with a spare and a standby."""
    return lambda s: bool(
        s["status"] == "RUNNING"
        and s["checkpoints"]["completed"] >= checkpoints
        and s["standbys"]
        and any(tm["role"] == "spare" for tm in s["task_managers"])
        and all(tm["role"] != "starting" for tm in s["task_managers"])
    )


# -- the driver itself --------------------------------------------------------------------------------------------------


def busy(row_s: float, batch: pa.RecordBatch) -> pa.RecordBatch:
    """So much time of a CPU for each row."""
    until = time.thread_time() + row_s * batch.num_rows
    while time.thread_time() < until:
        pass
    return batch


def start(settings: dict[str, Any]) -> Any:
    folder = settings["folder"]
    env = fr.StreamEnvironment(
        settings["name"],
        parallelism=settings["parallelism"],
        high_availability=fr.HighAvailability(degraded=settings.get("degraded", "report")),
        checkpointing=fr.Checkpointing(
            interval=settings.get("interval", "1s"),
            min_pause="100ms",
            storage=settings.get("storage", f"file://{folder}/checkpoints"),
            storage_options=settings.get("storage_options", {}),
            **({"key": fr.KeyFile(settings["key"])} if "key" in settings else {}),
        ),
    )
    object.__setattr__(env.config, "detached", settings.get("detached", False))
    reads = Path(folder, "reads")
    reads.mkdir(exist_ok=True)
    bids = env.from_source(
        Counted(fr.sources.Nexmark("bid", rows=settings["rows"], rate=settings["rate"]), str(reads)),
        watermark=fr.Watermarks.bounded("date_time", "1s"),
        uid="bids",
    )
    if "row_us" in settings:
        bids = bids.select("auction").map_batches(partial(busy, settings["row_us"] / 1e6), {"auction": "int64"})
    counts = bids.key_by("auction").window(fr.windows.Sliding("10s", "2s")).aggregate(bids=fr.agg.count()).uid("count")
    sink = ProbeSink(fr.sinks.Parquet(f"{folder}/out"), f"{folder}/probe", "window_start")
    counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest").sink_to(sink, uid="out")
    return env.execute_async()


def journal(run: str) -> list[int]:
    from flinkray.core.journal_records import decode_record
    from flinkray.runtime.ray.gcs_slots import GcsSlots

    slots, records, number = GcsSlots(run), [], 0
    while (value := slots.get(number)) is not None:
        records.append(decode_record(value))
        number += 1
    assert records, "the journal's first slots were deleted: the job ran for too long to look at all of it"
    return one_leader_at_a_time(records)


def answer(job: Any, what: str) -> Any:
    if what == "status":
        try:
            return job.status()
        except fr.errors.WaitTimeoutError:
            return {}
    if what == "lines":
        return [f"{line.at} {line.text}" for line in job.lines(0)]
    if what == "journal":
        return journal(job._leader._run)
    try:
        result = job.wait(timeout=SETTLE_S)
    except fr.errors.FlinkrayError as error:
        return {"status": "FAILED", "error": str(error)}
    return {"status": result.status, "restarts": result.restarts, "records_in": result.records_in}


def main() -> None:
    import ray

    address, settings = sys.argv[1], json.loads(sys.argv[2])
    own = {"num_cpus": 4, "include_dashboard": False} if address == "local" else {}
    ray.init(address=address, namespace="flinkray", log_to_driver=False, logging_level="ERROR", **own)
    job = start(settings)
    for line in sys.stdin:
        print("@@" + json.dumps(answer(job, line.strip()), default=str), flush=True)


if __name__ == "__main__":
    main()
